// A plain WebSocket to the sample backend through the proxy, with its round-trip time.
import { $, appendTo, el, setState } from "/page/dom.js";

export function startEcho() {
  const state = $("echo-state");
  const times = [];
  let socket = null;

  /** The open socket, made when there is none. */
  async function connected() {
    if (!socket || socket.readyState > WebSocket.OPEN) {
      setState(state, "connecting", "wait");
      socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/echo`);
      socket.onclose = (event) => setState(state, `closed (${event.code})`, event.wasClean ? "" : "bad");
    }
    const opening = socket;
    if (opening.readyState === WebSocket.CONNECTING) {
      await new Promise((resolve, reject) => {
        opening.addEventListener("open", resolve, { once: true });
        opening.addEventListener("close", () => reject(new Error("closed")), { once: true });
      });
      setState(state, "open", "good");
    }
    return opening;
  }

  /** One round trip: the next message is the echo, because only one is under way at a time. */
  async function roundTrip(text) {
    const open = await connected();
    const sent = performance.now();
    const echo = await new Promise((resolve, reject) => {
      open.addEventListener("message", (event) => resolve(event.data), { once: true });
      open.addEventListener("close", () => reject(new Error("closed")), { once: true });
      open.send(text);
    });
    show(performance.now() - sent, echo);
  }

  function show(took, echo) {
    times.push(took);
    if (times.length > 1000) times.shift();
    const sorted = [...times].sort((a, b) => a - b);
    $("rtt").textContent = took.toFixed(1);
    $("rtt-median").textContent = sorted[Math.floor(sorted.length / 2)].toFixed(1);
    $("rtt-count").textContent = String(times.length);
    appendTo($("echo-log"), el("li", {}, el("code", {}, `${took.toFixed(1)} ms`), el("span", { class: "what" }, echo)), 50);
  }

  let queue = Promise.resolve();
  function run(texts) {
    queue = queue.then(async () => { for (const text of texts) await roundTrip(text); }).catch(() => undefined);
  }

  $("echo-form").addEventListener("submit", (event) => { event.preventDefault(); run([$("echo-text").value]); });
  $("echo-burst").addEventListener("click", () => {
    const text = $("echo-text").value;
    run(Array.from({ length: 100 }, (_, index) => `${text} #${index + 1}`));
  });
}
