// Clients of other makes and ages: socket.io-client 4.1, which knows no recovery and no emitWithAck.
import { io } from "socket.io-client-4-1";
import { assert, atEnd, joined, next, range, relay, settings, token, until, within } from "./lib.mjs";

async function old(user, options = {}) {
  const socket = io(options.url ?? settings.url, { auth: { token: token(user) }, forceNew: true, reconnection: false, ...options });
  socket.messages = [];
  socket.on("room:message", (message) => socket.messages.push(message));
  socket.call = (event, body) => within(new Promise((resolve) => socket.emit(event, body, resolve)), `the ack of ${event}`);
  atEnd(() => socket.disconnect());
  await within(new Promise((resolve, reject) => { socket.once("connect", resolve); socket.once("connect_error", reject); }), `${user} to be connected`);
  return socket;
}

async function talk(transports) {
  const ada = await old("ada", { transports });
  const bob = await joined("bob", "quay");
  assert.equal((await ada.call("room:join", { room: "quay" })).success, true);
  for (const n of range(10)) assert.equal((await ada.call("room:send", { room: "quay", payload: { n } })).success, true);
  const bytes = Buffer.from(range(256));
  assert.equal((await ada.call("room:send", { room: "quay", payload: { bytes } })).success, true);
  assert.equal((await bob.call("room:send", { room: "quay", payload: { bytes } })).success, true);
  await until(() => ada.messages.length >= 12 && bob.payloads().length >= 12, "all messages at both");
  for (const payloads of [ada.messages.map((message) => message.payload), bob.payloads()]) {
    assert.deepEqual(payloads.slice(0, 10), range(10).map((n) => ({ n })));
    for (const payload of payloads.slice(10)) assert.ok(Buffer.from(payload.bytes).equals(bytes));
  }
  const page = await ada.call("room:history", { room: "quay" });
  assert.deepEqual(page.messages.at(-1)?.payload.bytes, { base64: bytes.toString("base64") });
  ada.disconnect();
  await until(async () => (await bob.call("query:presence", { room: "quay" })).presence.length === 1, "the old client to be gone");
}

export const oldClientPolling = () => talk(["polling"]);
export const oldClientWebsocket = () => talk(["websocket"]);
export const oldClientUpgrades = () => talk(["polling", "websocket"]);

/** It comes back as a new session, and is told nothing that would look like a message. */
export async function oldClientReconnects() {
  const line = await relay();
  const ada = await old("ada", { url: line.url, transports: ["websocket"], reconnection: true, reconnectionDelay: 10 });
  const bob = await joined("bob", "quay");
  await ada.call("room:join", { room: "quay" });
  await bob.call("room:send", { room: "quay", payload: 1 });
  await until(() => ada.messages.length === 1, "the first message");
  const id = ada.id;
  const again = next(ada, "connect");
  line.cut();
  await again;
  assert.notEqual(ada.id, id);
  await ada.call("room:join", { room: "quay" });
  await bob.call("room:send", { room: "quay", payload: 2 });
  await until(() => ada.messages.length === 2, "the message after the cut");
  assert.deepEqual(ada.messages.map((message) => message.payload), [1, 2]);
}
