// Records what the Redis adapters of Socket.IO publish, and what each of it means: tests/vectors/node_adapter.json.
//   cd tests/e2e/node && npm ci && node ../../vectors/record_node_adapter.cjs
// Their Redis client is replaced by one that writes down; everything else is the packages themselves.
const { createRequire } = require("node:module");
const path = require("node:path");
const fs = require("node:fs");
const { EventEmitter } = require("node:events");
const from = createRequire(path.join(process.cwd(), "x.js"));
const { Server } = from("socket.io");
const { io: connect } = from("socket.io-client");
const { createAdapter, createShardedAdapter } = from("@socket.io/redis-adapter");
const { Emitter } = from("@socket.io/redis-emitter");
const streams = from("@socket.io/redis-streams-adapter");

const vectors = [];
const written = [];
let about, adapter, meaning;
const note = (form, where, bytes) => {
  const payload = Array.isArray(bytes) ? bytes.map((field) => Buffer.from(String(field)).toString("base64")) : Buffer.from(bytes).toString("base64");
  written.push({ adapter, about, form, where, bytes: payload });
};

/** A Redis client in the manner of ioredis that publishes into the notebook. */
class Notebook extends EventEmitter {
  options = { lazyConnect: false };
  duplicate() { return new Notebook(); }
  publish(channel, bytes) { note("publish", channel, bytes); return Promise.resolve(1); }
  spublish(channel, bytes) { note("publish", channel, bytes); return Promise.resolve(1); }
  xadd(args) { note("entry", args[0], args.slice(5)); return Promise.resolve("1-1"); }
  xread() { return new Promise(() => {}); }
  psubscribe() {} subscribe() {} ssubscribe() {} sunsubscribe() {} unsubscribe() {} punsubscribe() {} disconnect() {}
  send_command(_, args, done) { done?.(null, [args[1], "2"]); return Promise.resolve([args[1], "2"]); }
}

const moment = () => new Promise((resolve) => setTimeout(resolve, 60));
/** What the call makes the adapter write must be this, in order. */
async function record(what, call, ...meanings) {
  about = what;
  written.length = 0;
  await call();
  await moment();
  if (written.length !== meanings.length) throw new Error(`${adapter}: ${what}: ${JSON.stringify(written)}`);
  written.forEach((entry, index) => vectors.push({ ...entry, means: meanings[index] }));
}

const bytes = Buffer.from([0, 1, 254, 255]);
const event = (payload, { rooms = [], except = [], volatile = false, attachments = [], ack = null } = {}) =>
  ({ broadcast: { payload, rooms, except, volatile, attachments: attachments.map((one) => one.toString("base64")), ack } });
const placeholder = (num) => ({ _placeholder: true, num });
const wild = { text: "ünï\u{1F980}\u0000\"", list: [1, -1, 127, 128, 255, 256, 65536, 4294967296, -32, -33, -129, -40000, -3000000000, 1.5, 0.1, null, true, false], deep: { a: [[]], b: {} } };

async function commands(io, { ids }) {
  await record("to everybody", () => io.emit("hello", 1, "two", { three: 3 }), event(["hello", 1, "two", { three: 3 }]));
  await record("no arguments", () => io.emit("bare"), event(["bare"]));
  await record("every kind of value", () => io.emit("wild", wild), event(["wild", wild]));
  await record("many items", () => io.emit("many", Array.from({ length: 300 }, () => 0), Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, i]))),
    event(["many", Array.from({ length: 300 }, () => 0), Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, i]))]));
  await record("to one room", () => io.to("r1").emit("hello"), event(["hello"], { rooms: ["r1"] }));
  await record("to a room whose name is a number", () => io.to(7).emit("hello"), event(["hello"], { rooms: ["7"] }));
  await record("to rooms, but not to others", () => io.to("r1").to("r2").except("r3").volatile.emit("hello"), event(["hello"], { rooms: ["r1", "r2"], except: ["r3"], volatile: true }));
  await record("to a socket", () => io.to(ids[0]).emit("hello"), event(["hello"], { rooms: [ids[0]] }));
  await record("a date", () => io.emit("when", new Date(1700000000123)), event(["when", "2023-11-14T22:13:20.123Z"]));
  await record("binary", () => io.emit("bin", bytes, { inside: [bytes, "x"] }), event(["bin", placeholder(0), { inside: [placeholder(1), "x"] }], { attachments: [bytes, bytes] }));
  await record("a long binary", () => io.emit("bin", Buffer.alloc(300, 7)), event(["bin", placeholder(0)], { attachments: [Buffer.alloc(300, 7)] }));
  await record("sockets join", () => io.in("r1").except("r2").socketsJoin(["a", "b"]), { join: { rooms: ["r1"], except: ["r2"], into: ["a", "b"] } });
  await record("sockets leave", () => io.in("r1").socketsLeave("a"), { leave: { rooms: ["r1"], except: [], from: ["a"] } });
  await record("sockets disconnect", () => io.in(ids[0]).disconnectSockets(true), { disconnect: { rooms: [ids[0]], except: [], close: true } });
  await record("server side", () => io.serverSideEmit("hey", 1, { a: "b" }), { serverSide: { payload: ["hey", 1, { a: "b" }], ack: false } });
}

async function requests(io) {
  await record("who is there", () => void io.in("r1").except("r2").fetchSockets().catch(() => {}), { fetch: { rooms: ["r1"], except: ["r2"] } });
  await record("server side, with answers", () => io.serverSideEmit("hey", 1, () => {}), { serverSide: { payload: ["hey", 1], ack: true } });
  await record("with answers", () => io.to("r1").timeout(700).emit("ask", 1, () => {}), event(["ask", 1], { rooms: ["r1"], ack: 700 }));
  await record("binary, with answers", () => io.timeout(700).emit("ask", bytes, () => {}), event(["ask", placeholder(0)], { attachments: [bytes], ack: 700 }));
}

async function run(name, make, deliver, more) {
  adapter = name;
  const io = new Server(0, { adapter: make(new Notebook()) });
  const port = io.httpServer.address().port;
  io.on("connection", (socket) => socket.join("r1"));
  io.on("hey", (_, done) => done?.("there"));
  const client = connect(`http://127.0.0.1:${port}`, { transports: ["websocket"] });
  client.on("ask", (_, done) => done?.(bytes, "ignored"));
  await new Promise((resolve) => client.on("connect", resolve));
  await moment();
  // The client stays: its commands go elsewhere.
  const other = io.of("/").adapter;
  other.apply = () => {};
  await commands(io, { ids: ["AAAAAAAAAAAAAAAAAAAA"] });
  await requests(io);
  delete other.apply;
  await more(io, other, client);
  client.close();
  io.close();
}

(async () => {
  await run("redis-adapter", (redis) => createAdapter(redis, redis), null, async (io, adapter, client) => {
    const ask = (request) => adapter.onrequest("socket.io-request#/#", Buffer.from(JSON.stringify({ uid: "uid123", requestId: "abc123", ...request })));
    await record("which rooms", () => void adapter.allRooms().catch(() => {}), { allRooms: true });
    await record("answer: who is there", () => ask({ type: 5, opts: { rooms: ["r1"], except: [] } }), { found: [client.id] });
    await record("answer: ids", () => ask({ type: 0, rooms: ["r1"] }), { found: [client.id] });
    await record("answer: which rooms", () => ask({ type: 1 }), { rooms: [client.id, "r1"] });
    await record("answer: server side", () => ask({ type: 6, data: ["hey", 1] }), { serverSideAnswer: "there" });
    await record("answer: count, then the client's", () => ask({ type: 7, packet: { type: 2, data: ["ask", 1], nsp: "/" }, opts: { rooms: [], except: [], flags: {} } }), { clientCount: 1 }, { acked: placeholder(0) });
  });
  await run("sharded", (redis) => createShardedAdapter(redis, redis), null, async (io, adapter, client) => {
    const ask = (type, data) => adapter.onRawMessage(Buffer.from(JSON.stringify({ uid: "0123456789abcdef", nsp: "/", type, data: { requestId: "abc123", ...data } })), "socket.io#/#");
    const opts = { rooms: ["r1"], except: [], flags: {} };
    await record("answer: who is there", () => ask(7, { opts }), { found: [client.id] });
    await record("answer: server side", () => ask(9, { packet: ["hey", 1] }), { serverSideAnswer: "there" });
    await record("answer: count, then the client's", () => ask(3, { packet: { type: 2, data: ["ask", 1] }, opts }), { clientCount: 1 }, { acked: placeholder(0) });
  });
  await run("streams", (redis) => streams.createAdapter(redis), null, async (io, adapter, client) => {
    const ask = (type, data) => adapter.onMessage({ uid: "0123456789abcdef", nsp: "/", type, data: { requestId: "abc123", ...data } });
    const opts = { rooms: ["r1"], except: [], flags: {} };
    await record("answer: who is there", () => ask(7, { opts }), { found: [client.id] });
    await record("answer: server side", () => ask(9, { packet: ["hey", 1] }), { serverSideAnswer: "there" });
    await record("answer: count, then the client's", () => ask(3, { packet: { type: 2, data: ["ask", 1] }, opts }), { clientCount: 1 }, { acked: placeholder(0) });
  });
  adapter = "redis-adapter";
  const emitter = new Emitter(new Notebook());
  await commands(Object.assign(emitter, {}), { ids: ["AAAAAAAAAAAAAAAAAAAA"] });
  await record("of another namespace", () => emitter.of("chat").emit("hello"), event(["hello"]));

  const text = vectors.map((vector) => `    ${JSON.stringify(vector)}`).join(",\n");
  fs.writeFileSync(path.join(__dirname, "node_adapter.json"), `{\n  "about": "What @socket.io/redis-adapter ${from("@socket.io/redis-adapter/package.json").version}, redis-emitter ${from("@socket.io/redis-emitter/package.json").version} and redis-streams-adapter ${from("@socket.io/redis-streams-adapter/package.json").version} write; by record_node_adapter.cjs.",\n  "vectors": [\n${text}\n  ]\n}\n`);
  console.log(`${vectors.length} vectors`);
  process.exit(0);
})();
