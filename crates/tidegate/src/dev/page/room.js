// The room over the stock Socket.IO client: presence, messages, history, and recovery after a cut.
import { io } from "/page/socket.io.esm.min.js";
import { $, appendTo, clock, el, setState, textOf } from "/page/dom.js";

const ACK_TIMEOUT_MS = 20_000;

export function startRoom({ session, onJoined }) {
  const state = $("room-state");
  const list = $("messages");
  let socket = null;
  let me = null;
  let room = null;
  let position = null;
  let seen = new Set();
  let people = new Map();

  function fail(text) {
    $("room-error").textContent = text;
    $("room-error").hidden = !text;
  }

  function enable(on) {
    for (const id of ["text", "send", "status", "cut"]) $(id).disabled = !on;
  }

  function note(text) {
    appendTo(list, el("li", { class: "note" }, text));
  }

  // A message can come twice by design: from the history that was asked for and from the live room. Its id tells.
  function show(message, replayed) {
    if (message.room !== room || seen.has(message.id)) return;
    seen.add(message.id);
    const mine = message.from === me.user;
    const who = people.get(message.from)?.username ?? message.payload?.name ?? message.from;
    appendTo(list, el("li", { class: mine ? "message mine" : "message", "data-id": message.id, "data-replayed": replayed ? "true" : null },
      el("span", { class: "who" }, who),
      el("span", { class: "what" }, textOf(message.payload)),
      el("time", { datetime: new Date(message.timestamp).toISOString() }, clock(message.timestamp)),
      replayed ? el("span", { class: "tag" }, "replayed") : null));
  }

  function showPeople() {
    const items = [...people.values()].sort((a, b) => (a.username ?? a.userId).localeCompare(b.username ?? b.userId));
    $("people").replaceChildren(...items.map((person) => el("li", { "data-user": person.userId, "data-status": person.status },
      el("span", { class: "dot", "aria-hidden": "true" }),
      el("span", { class: "who" }, person.username ?? person.userId),
      el("span", { class: "tag" }, person.userId === me?.user ? `you, ${person.status}` : person.status))));
    $("people-count").textContent = String(items.length);
  }

  const call = (event, body) => socket.timeout(ACK_TIMEOUT_MS).emitWithAck(event, body);

  async function enter() {
    // Live messages are shown from the moment of the join, then history is merged in by id: no seam between the two.
    const joined = await call("room:join", { room });
    if (!joined.success) return fail(joined.error ?? "could not join");
    const past = await call("room:history", position ? { room, since: position } : { room, limit: 100 });
    if (Array.isArray(past.messages)) {
      if (past.messages.length > 0 && list.childElementCount === 0) note("from the store");
      for (const message of past.messages) show(message, true);
      if (past.truncated) note("older messages are gone");
      if (past.position) position = past.position;
    }
    enable(true);
    onJoined(me, room);
    $("text").focus({ preventScroll: true });
  }

  function listen() {
    socket.on("connect", () => {
      fail("");
      if (socket.recovered) {
        setState(state, "recovered", "good");
        enable(true);
        note("line back, nothing lost");
        return;
      }
      setState(state, `connected (${socket.io.engine.transport.name})`, "good");
      enter().catch((error) => fail(`join failed: ${error.message}`));
    });
    socket.io.on("reconnect_attempt", () => setState(state, "reconnecting", "wait"));
    socket.on("connect_error", (error) => { setState(state, "refused", "bad"); fail(error.message); });
    socket.on("disconnect", (reason) => { setState(state, `disconnected: ${reason}`, "bad"); enable(false); });
    socket.on("room:message", (message) => show(message, false));
    socket.on("presence:update", (update) => {
      if (update.room !== room) return;
      people = new Map(update.presence.map((person) => [person.userId, person]));
      showPeople();
    });
    socket.on("presence:join", ({ room: where, user }) => {
      if (where !== room) return;
      people.set(user.userId, user);
      showPeople();
      note(`${user.username ?? user.userId} came in`);
    });
    socket.on("presence:leave", ({ room: where, userId }) => {
      if (where !== room) return;
      note(`${people.get(userId)?.username ?? userId} left`);
      people.delete(userId);
      showPeople();
    });
    socket.on("system:error", ({ code, message }) => fail(`${code}: ${message}`));
    socket.on("system:restart", ({ reason, reconnectIn }) => note(`${reason}; back in ${reconnectIn} ms`));
    socket.io.engine.on("upgrade", (transport) => {
      if (socket.connected) setState(state, `connected (${transport.name})`, "good");
    });
  }

  async function join(name, wantedRoom) {
    socket?.disconnect();
    enable(false);
    fail("");
    room = wantedRoom;
    position = null;
    seen = new Set();
    people = new Map();
    list.replaceChildren();
    showPeople();
    setState(state, "connecting", "wait");
    try {
      me = await session(name);
    } catch (error) {
      setState(state, "refused", "bad");
      fail(error.message);
      return;
    }
    socket = io({ auth: { token: me.token }, forceNew: true, reconnectionDelay: 300, reconnectionDelayMax: 3000 });
    listen();
  }

  $("composer").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (!text || !socket) return;
    $("text").value = "";
    try {
      const sent = await call("room:send", { room, payload: { text, name: me.name ?? me.user }, persistent: $("persistent").checked });
      if (!sent.success) fail(sent.error ?? "not sent");
    } catch (error) {
      fail(`not acknowledged: ${error.message}`);
    }
  });

  $("status").addEventListener("change", () => socket?.emit("presence:status", { status: $("status").value }));

  // Closes the WebSocket under the client, as a lost network would; the client reconnects and asks for what it missed.
  $("cut").addEventListener("click", () => {
    const transport = socket?.io.engine?.transport;
    if (transport?.ws) transport.ws.close();
    else socket?.io.engine?.close();
  });

  return { join };
}
