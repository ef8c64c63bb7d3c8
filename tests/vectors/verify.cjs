// Checks the vectors against the reference implementations, so that they are facts and not opinions:
//   cd "$(mktemp -d)" && npm i socket.io-parser engine.io-parser ws eventsource-parser && node <repo>/tests/vectors/verify.cjs
const { createRequire } = require("node:module");
const assert = require("node:assert");
const path = require("node:path");
const from = createRequire(path.join(process.cwd(), "x.js"));
const sio = from("socket.io-parser");
const eio = from("engine.io-parser");
const { Receiver } = from("ws");
const { createParser } = from("eventsource-parser");
const load = (name) => require(path.join(__dirname, name));
let checked = 0;
const check = (about, body) => {
  try { body(); } catch (error) { console.error(`${about}: ${error.message}`); process.exitCode = 1; }
  checked += 1;
};

const socketIo = load("socket_io.json");
for (const { text, kind, namespace, ack_id, attachments, payload } of socketIo.decode) {
  check(text, () => {
    const packet = new sio.Decoder().decodeString(text);
    assert.deepEqual([packet.type, packet.nsp, packet.id ?? null, packet.attachments ?? 0], [kind, namespace, ack_id, attachments]);
    assert.deepEqual(packet.data, payload === "" ? undefined : JSON.parse(payload));
  });
}
for (const { text, also_refused_by_reference = true } of socketIo.refuse) {
  const read = () => new sio.Decoder().decodeString(text);
  check(text, () => (also_refused_by_reference ? assert.throws(read) : assert.doesNotThrow(read)));
}
for (const { kind, namespace, ack_id, attachments, event, args, trailing, text } of socketIo.encode) {
  check(text, () => {
    let data = [2, 3, 5, 6].includes(kind) ? JSON.parse(`[${args}]`) : args === "" ? undefined : JSON.parse(args);
    if (event !== undefined) data = [event, ...data];
    if (trailing !== undefined) data = [...data, trailing];
    assert.equal(new sio.Encoder().encodeAsString({ type: kind, nsp: namespace, id: ack_id, attachments, data }), text);
  });
}
for (const { payload, attachments, legal, also_refused_by_reference = true } of socketIo.placeholders) {
  check(payload, () => {
    const decoder = new sio.Decoder();
    const read = () => {
      decoder.add(`5${attachments}-${payload}`);
      for (let i = 0; i < attachments; i++) decoder.add(Buffer.from([i]));
    };
    if (legal || !also_refused_by_reference) assert.doesNotThrow(read);
    else assert.throws(read, /illegal attachments/);
  });
}

const engineIo = load("engine_io.json");
for (const { text, type, data, binary } of engineIo.packets) {
  check(text, () => {
    const packet = eio.decodePacket(text);
    assert.equal(packet.type, type);
    if (binary === undefined) assert.equal(packet.data, data);
    else assert.equal(packet.data.toString("hex"), binary);
  });
}
for (const { text, packets } of engineIo.payloads) {
  check(text, () => assert.deepEqual(eio.decodePayload(text), packets.map((packet) => eio.decodePacket(packet))));
}
for (const text of engineIo.refuse) check(text, () => assert.equal(eio.decodePacket(text).type, "error"));
for (const text of engineIo.refuse_payloads) check(text, () => assert.equal(eio.decodePayload(text).at(-1).type, "error"));

const websocket = load("websocket.json");
const receive = ({ role, hex, max }) => new Promise((resolve) => {
  const receiver = new Receiver({ isServer: role === "server", maxPayload: max ?? 1 << 20 });
  const messages = [];
  receiver.on("message", (data, binary) => messages.push(binary ? { binary: data.toString("hex") } : { text: data.toString() }));
  receiver.on("ping", (data) => messages.push({ ping: data.toString("hex") }));
  receiver.on("pong", (data) => messages.push({ pong: data.toString("hex") }));
  receiver.on("conclude", (code, reason) => messages.push(code === 1005 ? { close: null } : { close: code, reason: reason.toString() }));
  receiver.on("error", (error) => {
    const code = Object.getOwnPropertySymbols(error).map((symbol) => error[symbol])[0];
    resolve({ messages, code });
  });
  receiver.write(Buffer.from(hex, "hex"));
  setImmediate(() => setImmediate(() => setImmediate(() => setImmediate(() => resolve({ messages })))));
});

(async () => {
  for (const vector of websocket.decode) {
    const got = await receive(vector);
    check(vector.about, () => assert.deepEqual(got, { messages: vector.messages }));
  }
  for (const vector of websocket.refuse) {
    const got = await receive(vector);
    check(vector.about, () => (vector.ws === false ? assert.notEqual(got.code, vector.code) : assert.equal(got.code, vector.code)));
  }
  for (const { text, events, retry_ms, eventsource_parser = true } of load("sse.json").streams) {
    if (!eventsource_parser) continue;
    check(text, () => {
      const got = [];
      let retry;
      const parser = createParser({ onEvent: (event) => got.push(event), onRetry: (ms) => { retry = ms; } });
      parser.feed(text);
      const brief = ({ event, data }) => ({ event: event || "message", data });
      assert.deepEqual(got.map(brief), events.map(brief));
      assert.equal(retry, retry_ms);
    });
  }
  console.log(`${checked} vectors checked`);
})();
