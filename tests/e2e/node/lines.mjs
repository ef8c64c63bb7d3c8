// Plain WebSocket clients that speak JSON lines, beside stock Socket.IO clients.
import { readFileSync } from "node:fs";
import { WebSocket } from "ws";
import { assert, atEnd, joined, range, relay, settings, token, until, within } from "./lib.mjs";

const address = (url = settings.url) => `${url.replace("http", "ws")}/realtime/ws`;

/** A client in some twenty lines, as anybody would write it. */
async function open(url, options) {
  const ws = new WebSocket(address(url), options);
  const client = { ws, lines: [], closed: null, nextId: 1 };
  ws.on("message", (data) => client.lines.push(JSON.parse(data)));
  ws.on("close", (code) => (client.closed = code));
  ws.on("error", () => undefined);
  atEnd(() => ws.terminate());
  await within(new Promise((resolve, reject) => { ws.once("open", resolve); ws.once("error", reject); }), "the handshake");
  client.say = (line) => ws.send(typeof line === "string" ? line : JSON.stringify(line));
  client.find = async (what, match) => {
    await until(() => client.lines.some(match), what);
    return client.lines.find(match);
  };
  client.of = (event) => client.lines.filter((line) => line.type === "event" && line.event === event).map((line) => line.data);
  client.call = async (event, data, more = {}) => {
    const id = client.nextId++;
    client.say({ event, data, id, ...more });
    return (await client.find(`the ack of ${event}`, (line) => line.type === "ack" && line.id === id)).data;
  };
  client.connect = async (user, { namespace = "/", ...auth } = {}) => {
    client.say({ type: "connect", namespace, auth: { token: token(user), ...auth } });
    return client.find("connected", (line) => (line.type === "connected" || line.type === "refused") && line.namespace === namespace);
  };
  return client;
}

export async function talksWithSocketIo() {
  const ada = await open();
  const hello = await ada.connect("ada");
  assert.equal(hello.type, "connected");
  assert.ok(hello.sid && hello.pid);
  assert.equal((await ada.call("room:join", { room: "quay" })).success, true);
  const bob = await joined("bob", "quay");
  await ada.find("bob to come", (line) => line.event === "presence:join" && line.data.user.userId === "bob");
  const ack = await ada.call("room:send", { room: "quay", payload: { text: "from lines \u{1F30A}" } });
  assert.equal(ack.success, true);
  await until(() => bob.payloads().length === 1, "ada's message");
  assert.deepEqual(bob.payloads(), [{ text: "from lines \u{1F30A}" }]);
  await bob.call("room:send", { room: "quay", payload: { bytes: Buffer.from("abc") } });
  await until(() => ada.of("room:message").length === 2, "bob's message");
  assert.deepEqual(ada.of("room:message").map((message) => message.payload), [{ text: "from lines \u{1F30A}" }, { bytes: { base64: "YWJj" } }]);
  const history = await ada.call("room:history", { room: "quay" });
  assert.equal(history.messages.length, 2);
  assert.deepEqual((await ada.call("query:rooms")).rooms, ["quay"]);
  ada.say({ type: "ping" });
  await ada.find("pong", (line) => line.type === "pong");
  ada.say({ type: "disconnect" });
  await until(() => bob.of("presence:leave").length === 1, "ada to leave");
}

export async function namespacesAndRefusals() {
  const ada = await open();
  ada.say({ type: "connect", auth: { token: "nonsense" } });
  const refused = await ada.find("a refusal", (line) => line.type === "refused");
  assert.deepEqual(refused, { type: "refused", namespace: "/", message: "Invalid token" });
  assert.equal((await ada.connect("ada", { namespace: "/nowhere" })).message, "Invalid namespace");
  assert.equal((await ada.connect("ada", { namespace: "/events" })).type, "connected");
  const ack = await ada.call("join_room", { room: "r" }, { namespace: "/events" });
  assert.deepEqual(ack, { success: true });
  for (const [line, reason] of [["no json", "object"], ['{"event":"a","colour":1}', "colour"], ['{"type":"shout"}', "shout"], ["[1]", "object"]]) {
    const bad = await open();
    bad.say(line);
    const error = await bad.find("an error line", (found) => found.type === "error");
    assert.ok(error.message.includes(reason), error.message);
    await until(() => bad.closed !== null, "the end");
    assert.equal(bad.closed, 1002);
  }
  const binary = await open();
  binary.ws.send(Buffer.from([1, 2, 3]));
  await until(() => binary.closed !== null, "the end");
  assert.equal(binary.closed, 1002);
  // By header, as programs do it.
  const program = await open(settings.url, { headers: { authorization: `Bearer ${token("program")}` } });
  program.say({ type: "connect" });
  assert.equal((await program.find("connected", (line) => line.type !== "event")).type, "connected");
}

export async function recovers() {
  const line = await relay();
  const ada = await open(line.url);
  const { sid, pid } = await ada.connect("ada");
  await ada.call("room:join", { room: "quay" });
  const bob = await joined("bob", "quay");
  for (const n of range(3)) await bob.call("room:send", { room: "quay", payload: n });
  await until(() => ada.of("room:message").length === 3, "three messages");
  const { offset } = ada.lines.findLast((found) => found.offset);
  line.cut();
  await until(() => ada.closed !== null, "the cut");
  for (const n of range(200, 3)) await bob.call("room:send", { room: "quay", payload: n, persistent: n % 2 === 0 });
  const again = await open(line.url);
  const hello = await again.connect("ada", { pid, offset });
  assert.equal(hello.sid, sid, "the same session");
  await until(() => again.of("room:message").length >= 200, "what was missed");
  assert.deepEqual(again.of("room:message").map((message) => message.payload), range(200, 3), "once, in order");
  await bob.call("room:send", { room: "quay", payload: "live" });
  await until(() => again.of("room:message").at(-1)?.payload === "live", "live again");
}

/** Every type that is spoken stands in the description, and no other. */
export async function described() {
  const text = readFileSync(new URL("../../../docs/lines-api.yaml", import.meta.url), "utf8");
  const types = [...text.matchAll(/type: \{ const: (\w+)/g)].map((match) => match[1]);
  assert.deepEqual([...new Set(types)].sort(), ["ack", "connect", "connected", "disconnect", "disconnected", "error", "event", "ping", "pong", "refused"]);
}
