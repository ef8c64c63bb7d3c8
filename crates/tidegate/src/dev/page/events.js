// The same room as server-sent events. The browser reconnects by itself and names the last id it saw; the token is in a
// cookie, because EventSource sets no headers and a one-time ticket would be spent at the first reconnect.
import { $, appendTo, clock, el, setState, textOf } from "/page/dom.js";

export function startEvents() {
  const state = $("events-state");
  const list = $("events");
  let source = null;
  let current = null;

  function show(event) {
    let message;
    try { message = JSON.parse(event.data); } catch { return; }
    appendTo(list, el("li", { "data-id": event.lastEventId },
      el("code", {}, event.lastEventId || "no id"),
      el("span", { class: "what" }, `${message.payload?.name ?? message.from}: ${textOf(message.payload)}`),
      el("time", {}, clock(message.timestamp))));
  }

  function open(session, room) {
    if (source && current?.room === room && current.user === session.user && source.readyState !== EventSource.CLOSED) return;
    source?.close();
    current = { room, user: session.user, token: session.token };
    list.replaceChildren();
    setState(state, "connecting", "wait");
    source = new EventSource(`/realtime/rooms/${encodeURIComponent(room)}/events`);
    source.onopen = () => setState(state, "live", "good");
    source.onerror = () => {
      if (source.readyState === EventSource.CLOSED) setState(state, "refused", "bad");
      else setState(state, "reconnecting", "wait");
    };
    source.onmessage = show;
    source.addEventListener("room:message", show);
    source.addEventListener("gap", () => appendTo(list, el("li", { class: "note" }, "a gap: older events are gone")));
    $("ticket").disabled = false;
  }

  // For clients that can keep no cookie: a ticket opens one stream, once, within its few seconds.
  $("ticket").addEventListener("click", async () => {
    const response = await fetch("/realtime/tickets", { method: "POST", headers: { authorization: `Bearer ${current.token}` } });
    const body = response.ok ? await response.json() : null;
    $("ticket-out").textContent = body ? `…/events?ticket=${body.ticket.slice(0, 8)}… (${body.expiresIn} s, once)` : `refused: ${response.status}`;
  });

  return { open };
}
