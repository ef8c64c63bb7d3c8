// Node servers and Tidegate on one Redis: what either side does reaches the clients of the other. Every scenario has its
// own Redis, two Node servers, and the example `interop` of the binary's package.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { Redis } from "ioredis";
import { WebSocket } from "ws";
import { Server } from "socket.io";
import { io as connect } from "socket.io-client";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import { createAdapter as createStreamsAdapter } from "@socket.io/redis-streams-adapter";
import { PATIENCE_MS, assert, atEnd, until, within } from "./lib.mjs";

const bytes = Buffer.from([0, 1, 254, 255]);

// What the adapters still had to say to a Redis that is gone, which they do not look after.
process.on("unhandledRejection", (error) => { if (error?.message !== "Connection is closed.") throw error; });

async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A child that ends with the scenario. */
function child(command, args, options) {
  const started = spawn(command, args, { stdio: ["ignore", "pipe", "inherit"], ...options });
  const ended = new Promise((resolve) => started.once("exit", resolve));
  atEnd(async () => { started.kill("SIGKILL"); await ended; });
  return { signal: (signal) => started.kill(signal), kill: async (signal = "SIGKILL") => { started.kill(signal); await ended; }, out: started.stdout };
}

async function redisServer() {
  const dir = mkdtempSync(path.join(os.tmpdir(), "tidegate-redis-"));
  const port = await freePort();
  const start = async () => {
    const running = child("redis-server", ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir], { stdio: "ignore" });
    await until(() => new Promise((resolve) => {
      const socket = net.connect(port, "127.0.0.1", () => { socket.destroy(); resolve(true); });
      socket.on("error", () => resolve(false));
    }), "Redis to listen");
    return running;
  };
  atEnd(() => rmSync(dir, { recursive: true, force: true }));
  return { port, start };
}

const redisClient = (port) => {
  const client = new Redis({ port, host: "127.0.0.1", retryStrategy: () => 50, maxRetriesPerRequest: null });
  client.on("error", () => {});
  atEnd(() => client.disconnect());
  return client;
};

function adapterOf(kind, port) {
  const client = redisClient(port);
  if (kind === "streams") return createStreamsAdapter(client, { blockTimeInMs: 200 });
  const sub = redisClient(port);
  return kind === "sharded" ? createShardedAdapter(client, sub) : createAdapter(client, sub);
}

/** A Node server with the same handlers as the example. */
export function nodeServer(kind, port) {
  const io = new Server(0, { adapter: adapterOf(kind, port) });
  for (const nsp of ["/", "/other"]) {
    io.of(nsp).on("connection", (socket) => socket.on("join", (room, done) => { socket.join(room); done(true); }));
    io.of(nsp).on("hey", (...args) => {
      const done = typeof args.at(-1) === "function" ? args.pop() : undefined;
      io.of(nsp).local.emit("heard", ...args);
      done?.("node");
    });
  }
  atEnd(() => void io.close());
  return { io, url: `http://127.0.0.1:${io.httpServer.address().port}` };
}

async function client(url, namespace = "") {
  const socket = connect(url + namespace, { transports: ["websocket"], forceNew: true, reconnection: false });
  atEnd(() => socket.disconnect());
  socket.log = [];
  socket.onAny((event, ...values) => {
    const done = typeof values.at(-1) === "function" ? values.pop() : undefined;
    socket.log.push([event, ...values]);
    if (event === "ask") done?.(`${socket.who}:${values[0]}`, "ignored");
    if (event === "askBinary") done?.(bytes);
  });
  socket.of = (event) => socket.log.filter(([name]) => name === event).map(([, ...values]) => values);
  socket.call = (event, ...values) => socket.timeout(PATIENCE_MS).emitWithAck(event, ...values);
  await within(new Promise((resolve, reject) => { socket.once("connect", resolve); socket.once("connect_error", reject); }), "a connection");
  return socket;
}

/** The example `interop` on that Redis. */
async function startTidegate(kind, port) {
  const running = child(process.env.TIDEGATE_INTEROP, [kind, String(port)]);
  const { value } = await within(createInterface({ input: running.out })[Symbol.asyncIterator]().next(), "Tidegate to listen");
  return { ...running, url: value.match(/http:\/\/\S+/)[0] };
}

/** Redis, two Node servers, a Tidegate, and a client on each: `n1`, `n2`, `t1`, `t2`, all in room "all", each in its own. */
async function world(kind) {
  const redis = await redisServer();
  const running = await redis.start();
  const a = nodeServer(kind, redis.port);
  const b = nodeServer(kind, redis.port);
  const { url } = await startTidegate(kind, redis.port);
  const all = { n1: await client(a.url), n2: await client(b.url), t1: await client(url), t2: await client(url) };
  for (const [who, socket] of Object.entries(all)) {
    socket.who = who;
    for (const room of ["all", who, who[0]]) assert.equal(await socket.call("join", room), true);
  }
  const wish = (what, more = {}) => all.t1.call("wish", { do: what, ...more });
  const admin = redisClient(redis.port);
  // Both sides hear each other from the first message on that has come through both ways.
  await until(async () => {
    a.io.emit("warm"); b.io.emit("warm"); a.io.to("all").emit("warmAll"); b.io.to("all").emit("warmAll");
    await wish("emit", { event: "warm" }); await wish("emit", { event: "warmAll", to: ["all"] });
    await new Promise((resolve) => setTimeout(resolve, 50));
    return Object.values(all).every((socket) => socket.of("warm").length > 2 && socket.of("warmAll").length > 2);
  }, "both sides to hear each other");
  // No warm-up message may come late into what is measured.
  const settle = async () => {
    const mark = `mark${Math.random()}`;
    for (const io of [a.io, b.io]) for (const to of [io, io.to("all")]) to.emit(mark);
    await wish("emit", { event: mark }); await wish("emit", { event: mark, to: ["all"] });
    await until(() => Object.values(all).every((socket) => socket.of(mark).length === 6), "what was sent before to be there");
  };
  await settle();
  return { kind, redis, running, a, b, url, all, wish, admin, settle };
}

/** Who got the event, and how often. */
async function reached({ all, settle }, event) {
  await settle();
  return Object.fromEntries(Object.entries(all).map(([who, socket]) => [who, socket.of(event).length]).filter(([, count]) => count > 0));
}
const every = { n1: 1, n2: 1, t1: 1, t2: 1 };

async function broadcasts(world) {
  const { a, wish, all } = world;
  const value = { text: "ünï🦀\0", list: [1, -1, 1.5, null, true], deep: { a: [] } };
  a.io.emit("e1", value, "two");
  await wish("emit", { event: "e2", args: [value, "two"] });
  assert.deepEqual(await reached(world, "e1"), every);
  assert.deepEqual(await reached(world, "e2"), every);
  for (const socket of Object.values(all)) for (const event of ["e1", "e2"]) assert.deepEqual(socket.of(event), [[value, "two"]]);
  a.io.emit("bare");
  await wish("emit", { event: "bare" });
  await world.settle();
  for (const socket of Object.values(all)) assert.deepEqual(socket.of("bare"), [[], []]);
}

async function rooms(world) {
  const { a, wish, all } = world;
  a.io.to("t").emit("r1");
  a.io.to("t1").to("all").emit("r2");
  a.io.to("all").except("t1").except("n2").emit("r3");
  a.io.except("t").emit("r4");
  a.io.to("nobody").emit("r5");
  await wish("emit", { event: "s1", to: ["n"] });
  await wish("emit", { event: "s2", to: ["n1", "all"] });
  await wish("emit", { event: "s3", to: ["all"], except: ["n1", "t2"] });
  await wish("emit", { event: "s4", except: ["n"] });
  await wish("publish", { event: "s5", to: ["n1"], args: [1] });
  const expected = { r1: { t1: 1, t2: 1 }, r2: every, r3: { n1: 1, t2: 1 }, r4: { n1: 1, n2: 1 }, r5: {}, s1: { n1: 1, n2: 1 }, s2: every, s3: { n2: 1, t1: 1 }, s4: { t1: 1, t2: 1 }, s5: { n1: 1 } };
  for (const [event, wanted] of Object.entries(expected)) assert.deepEqual(await reached(world, event), wanted, event);
  assert.deepEqual(all.n1.of("s5"), [[1]], "a published event has no offset on its way to Node");
}

async function socketIds(world) {
  const { a, wish, all } = world;
  a.io.to(all.t2.id).emit("id1");
  a.io.except(all.t2.id).emit("id2");
  await wish("emit", { event: "id3", to: [all.n2.id] });
  await wish("emit", { event: "id4", except: [all.n2.id] });
  await wish("emit", { event: "id5", to: [all.t2.id] });
  const { n2, ...others } = every;
  for (const [event, wanted] of Object.entries({ id1: { t2: 1 }, id2: { n1: 1, n2: 1, t1: 1 }, id3: { n2: 1 }, id4: others, id5: { t2: 1 } })) assert.deepEqual(await reached(world, event), wanted, event);
}

async function flags(world) {
  const { a, wish } = world;
  // Whoever is busy just then goes without a volatile event.
  for (const [event, emit] of [["v1", () => a.io.volatile.emit("v1")], ["v2", () => wish("emit", { event: "v2", volatile: true })]]) {
    await until(async () => { await emit(); return Object.keys(await reached(world, event)).length === 4; }, `volatile ${event} everywhere`);
  }
  a.io.local.emit("l1");
  assert.deepEqual(await reached(world, "l1"), { n1: 1 });
}

async function binary(world) {
  const { a, all } = world;
  a.io.emit("binary", bytes, { inside: [bytes] });
  await all.t1.call("binary", bytes, { inside: [bytes] });
  await world.settle();
  for (const socket of Object.values(all)) assert.deepEqual(socket.of("binary"), [[bytes, { inside: [bytes] }], [bytes, { inside: [bytes] }]]);
}

async function membership(world) {
  const { a, wish, all } = world;
  a.io.in("t1").socketsJoin(["x", "y"]);
  await wish("join", { to: ["n1"], room: "x" });
  a.io.in(all.t2.id).socketsJoin("x");
  await until(async () => { a.io.to("x").emit("inX"); await world.settle(); return ["n1", "t1", "t2"].every((who) => all[who].of("inX").length > 0); }, "the joins");
  const before = await reached(world, "inX");
  assert.equal(before.n2, undefined);
  a.io.in("t1").socketsLeave("x");
  a.io.in("t1").socketsLeave("y");
  await wish("leave", { to: ["n1"], room: "x" });
  await until(async () => (await wish("fetch", { to: ["x"] })).found.length === 1, "the leaves");
  await wish("emit", { event: "leftX", to: ["x"] });
  assert.deepEqual(await reached(world, "leftX"), { t2: 1 });
}

async function fetching(world) {
  const { a, b, wish, all } = world;
  const ids = (who) => who.map((name) => all[name].id).sort();
  const found = await a.io.fetchSockets();
  assert.deepEqual(found.map((socket) => socket.id).sort(), ids(["n1", "n2", "t1", "t2"]));
  const t1 = found.find((socket) => socket.id === all.t1.id);
  assert.deepEqual([...t1.rooms].sort(), [all.t1.id, "all", "t", "t1"].sort());
  assert.match(t1.data.userId, /^anonymous:/);
  assert.deepEqual((await b.io.in("t").except("t1").fetchSockets()).map((socket) => socket.id), ids(["t2"]));
  t1.emit("direct", 1);
  const everybody = await wish("fetch");
  assert.deepEqual(everybody.found.map((socket) => socket.id).sort(), ids(["n1", "n2", "t1", "t2"]));
  assert.equal(everybody.incomplete, false);
  assert.deepEqual((await wish("fetch", { to: ["n"], except: ["n1"] })).found.map((socket) => socket.id), ids(["n2"]));
  assert.deepEqual(await reached(world, "direct"), { t1: 1 });
}

async function acks(world) {
  const { a, wish } = world;
  assert.deepEqual((await a.io.timeout(3000).emitWithAck("ask", 1)).sort(), ["n1:1", "n2:1", "t1:1", "t2:1"]);
  assert.deepEqual((await a.io.to("t").timeout(3000).emitWithAck("ask", 2)).sort(), ["t1:2", "t2:2"]);
  assert.deepEqual(await a.io.to("t1").timeout(3000).emitWithAck("askBinary"), [bytes]);
  assert.deepEqual(await a.io.to("nobody").timeout(3000).emitWithAck("ask", 3), []);
  const answers = await wish("ask", { event: "ask", args: [4] });
  assert.deepEqual({ ...answers, values: answers.values.sort() }, { values: ["n1:4", "n2:4", "t1:4", "t2:4"], incomplete: false });
  assert.deepEqual((await wish("ask", { event: "ask", args: [5], to: ["n2"] })).values, ["n2:5"]);
  assert.deepEqual((await wish("ask", { event: "silence", to: ["n1"] })).incomplete, true);
}

async function disconnects(world) {
  const { a, wish, all } = world;
  const gone = (socket) => within(new Promise((resolve) => socket.once("disconnect", resolve)), "a disconnect");
  const [t2, n2] = [gone(all.t2), gone(all.n2)];
  a.io.in("t2").disconnectSockets(true);
  await wish("disconnect", { to: ["n2"] });
  assert.deepEqual(await Promise.all([t2, n2]), ["io server disconnect", "io server disconnect"]);
}

async function namespaces(world) {
  const { a, url } = world;
  const other = await client(url, "/other");
  await until(async () => { a.io.of("/other").emit("there"); await world.settle(); return other.of("there").length > 0; }, "another namespace");
  assert.deepEqual(await reached(world, "there"), {});
}

/** Everything that is promised, with one adapter. */
async function matrix(kind) {
  const here = await world(kind);
  for (const part of [broadcasts, rooms, socketIds, flags, binary, membership, fetching, acks, namespaces, disconnects]) {
    try {
      await part(here);
    } catch (error) {
      error.message = `${kind}: ${part.name}: ${error.message}`;
      throw error;
    }
  }
}

export const redisAdapter = () => matrix("redis");
export const shardedAdapter = () => matrix("sharded");
export const streamsAdapter = () => matrix("streams");

async function servers(kind) {
  const here = await world(kind);
  const { a, wish } = here;
  a.io.serverSideEmit("hey", 1, { two: 2 });
  // Node tells its own clients of it, Tidegate tells all.
  assert.deepEqual(await reached(here, "heard"), { n1: 1, n2: 2, t1: 1, t2: 1 });
  assert.deepEqual((await within(a.io.serverSideEmitWithAck("hey", 1), "answers of servers")).sort(), ["node", "tidegate"]);
  assert.deepEqual(await wish("serverSideAsk", { event: "hey", args: [2] }), { values: ["node", "node"], incomplete: false });
  const before = here.all.n1.of("heard").length;
  await wish("serverSideEmit", { event: "hey", args: [3] });
  await until(async () => { await here.settle(); return here.all.n1.of("heard").length === before + 1 && here.all.t1.of("heard").at(-1)?.[0] !== 3; }, "an event for servers");
}
export const redisServers = () => servers("redis");
export const shardedServers = () => servers("sharded");
export const streamsServers = () => servers("streams");

/** A process that only emits, without clients of its own. */
export async function emitter() {
  const here = await world("redis");
  const { all, redis } = here;
  const emitter = new Emitter(redisClient(redis.port));
  emitter.emit("m1", { a: 1 });
  emitter.to("t").except("t1").emit("m2", bytes);
  emitter.in("t1").socketsJoin("y");
  await until(async () => { emitter.to("y").emit("m3"); return (await reached(here, "m3")).t1 > 0; }, "a join");
  emitter.in("t1").socketsLeave("y");
  emitter.serverSideEmit("hey", 9);
  assert.deepEqual(await reached(here, "m1"), every);
  assert.deepEqual(await reached(here, "m2"), { t2: 1 });
  assert.deepEqual(all.t2.of("m2"), [[bytes]]);
  await until(() => all.n1.of("heard").length === 2 && all.t1.of("heard").length === 1, "the event for servers, as each of three servers tells it");
  emitter.in(all.t2.id).disconnectSockets(true);
  await until(() => !all.t2.connected, "a disconnect");
}

export async function allRooms() {
  const here = await world("redis");
  const { a, all } = here;
  const found = await a.io.of("/").adapter.allRooms();
  for (const room of ["all", "t", "t1", "t2", all.t1.id, all.t2.id]) assert.ok(found.has(room), room);
}

/** What comes by the adapter has no place in an order: nothing is promised that cannot be kept. */
export async function noRecovery() {
  const { all, url } = await world("redis");
  assert.ok(all.t1.connected);
  const raw = new WebSocket(`${url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`);
  atEnd(() => raw.close());
  const connected = await within(new Promise((resolve) => {
    raw.onmessage = ({ data }) => { if (data.startsWith("0")) raw.send("40"); if (data.startsWith("40")) resolve(data); };
  }), "CONNECT");
  assert.deepEqual(Object.keys(JSON.parse(connected.slice(2))), ["sid"]);
}

/** A flood of bytes that are no messages, beside messages that are. */
async function garbage(kind) {
  const here = await world(kind);
  const { admin, a, b, wish, all } = here;
  const publish = (channel, bytes) => (kind === "sharded" ? admin.spublish(channel, bytes) : admin.publish(channel, bytes));
  const messages = ["", "{", "{}", "[]", "null", '{"type":99}', '{"type":2}', '{"type":3,"opts":{"rooms":["t1"],"except":{"a":1}},"rooms":[[]]}', '{"type":5,"requestId":"x"}', '{"type":6,"data":["disconnect"],"requestId":"r"}',
    '{"uid":"u","nsp":"/","type":3,"data":{"packet":{"type":2,"data":["disconnect"]},"opts":{}}}', '{"uid":"u","nsp":"/","type":3,"data":{"packet":{"type":1},"opts":{}}}', '{"uid":"u","nsp":"/","type":7,"data":{}}', '{"uid":"u","nsp":"/nowhere","type":3,"data":{"packet":{"type":2,"data":["e"]},"opts":{}}}',
    Buffer.from([0xdf, 0xff, 0xff, 0xff, 0xff]), Buffer.alloc(2000, 0x91), Buffer.from([0x93, 0xa1, 0x75, 0x80, 0x80]), Buffer.from("c1", "hex"), Buffer.alloc(100_000, 0xff)];
  // Not with Node servers listening: a claim of four billion members keeps their parser busy for ever.
  for (const { io } of [a, b]) await within(new Promise((resolve) => io.close(resolve)), "the Node servers to leave");
  await until(async () => (await wish("fetch")).found.length === 2, "Tidegate to be alone");
  const before = all.t1.log.length;
  for (const channel of ["socket.io#/#", "socket.io#/#t1#", "socket.io-request#/#", "socket.io-response#/#"]) for (const message of messages) await publish(channel, message);
  if (kind === "streams") for (const message of messages) await admin.xadd("socket.io", "*", "uid", "u", "nsp", "/", "type", "3", "data", message);
  if (kind === "streams") await admin.xadd("socket.io", "*", "something", "else");
  await wish("emit", { event: "after", to: ["t"] });
  await until(() => all.t1.of("after").length === 1, "Tidegate to go on");
  assert.equal(all.t1.log.length, before + 1, JSON.stringify(all.t1.log.slice(before)));
  assert.ok(all.t1.connected && all.t2.connected);
  const emitter = new Emitter(redisClient(here.redis.port));
  if (kind === "redis") {
    emitter.to("t").emit("still");
    await until(() => all.t2.of("still").length === 1, "a broadcast after the garbage");
  }
}
export const redisGarbage = () => garbage("redis");
export const shardedGarbage = () => garbage("sharded");
export const streamsGarbage = () => garbage("streams");

/** Redis goes and comes back: clients stay, and both sides hear each other again without a hand. */
async function redisRestarts(kind) {
  const here = await world(kind);
  const { redis, running, a, wish, all } = here;
  await running.kill();
  await wish("emit", { event: "meanwhile", to: ["t"] });
  await until(() => all.t1.of("meanwhile").length === 1 && all.t2.of("meanwhile").length === 1, "Tidegate's own clients while Redis is away");
  await redis.start();
  await until(async () => {
    a.io.to("all").emit("again");
    await wish("emit", { event: "back", to: ["all"] });
    await new Promise((resolve) => setTimeout(resolve, 50));
    return all.t1.of("again").length > 0 && all.n1.of("back").length > 0 && all.n2.of("back").length > 0;
  }, "both sides to hear each other again");
  for (const socket of Object.values(all)) assert.ok(socket.connected);
}
export const redisAdapterRedisRestarts = () => redisRestarts("redis");
export const shardedRedisRestarts = () => redisRestarts("sharded");
export const streamsRedisRestarts = () => redisRestarts("streams");

/** A Node server is killed: the others go on, and questions count the living. */
export async function nodeServerDies() {
  const here = await world("redis");
  const { redis, a, wish, all } = here;
  const script = `import { nodeServer } from ${JSON.stringify(fileURLToPath(import.meta.url))}; console.log(nodeServer("redis", ${redis.port}).url);`;
  const doomed = child(process.execPath, ["--input-type=module", "-e", script], { cwd: path.dirname(fileURLToPath(import.meta.url)) });
  const { value: url } = await within(createInterface({ input: doomed.out })[Symbol.asyncIterator]().next(), "another Node server");
  const victim = await client(url);
  assert.equal(await victim.call("join", "all"), true);
  await until(async () => (await wish("fetch", { to: ["all"] })).found.length === 5, "the other server's client");
  await doomed.kill();
  await until(async () => { const { found, incomplete } = await wish("fetch", { to: ["all"] }); return found.length === 4 && !incomplete; }, "a complete answer of the living");
  a.io.to("all").emit("on");
  await wish("emit", { event: "on", to: ["all"] });
  await here.settle();
  for (const socket of Object.values(all)) assert.equal(socket.of("on").length, 2);
}

/** The steps of docs/migrate-from-socketio.md behind nginx, there and back, with clients that come back by themselves. */
export async function oneServerAtATime() {
  const redis = await redisServer();
  await redis.start();
  const emitter = new Emitter(redisClient(redis.port));
  const [a, b] = [nodeServer("redis", redis.port), nodeServer("redis", redis.port)];
  const dir = mkdtempSync(path.join(os.tmpdir(), "tidegate-nginx-"));
  atEnd(() => rmSync(dir, { recursive: true, force: true }));
  const port = await freePort();
  const write = (...servers) => writeFileSync(path.join(dir, "nginx.conf"), `daemon off; worker_processes 1; pid ${dir}/pid; error_log /dev/null; events {}
    http { access_log off; upstream sockets { ${servers.map(({ url }) => `server ${new URL(url).host};`).join(" ")} }
    server { listen 127.0.0.1:${port}; location / { proxy_pass http://sockets; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_set_header Host $host; } } }`);
  write(a, b);
  const nginx = child("nginx", ["-p", dir, "-c", path.join(dir, "nginx.conf")], { stdio: "ignore" });
  const url = `http://127.0.0.1:${port}`;
  await until(() => fetch(url).then(() => true, () => false), "nginx to listen");
  const clients = Array.from({ length: 6 }, () => {
    const socket = connect(url, { transports: ["websocket"], forceNew: true, reconnectionDelay: 20, reconnectionDelayMax: 100 });
    atEnd(() => socket.disconnect());
    socket.heard = new Set();
    socket.onAny((event) => socket.heard.add(event));
    socket.on("connect", () => socket.timeout(PATIENCE_MS).emitWithAck("join", "all").catch(() => {}));
    return socket;
  });
  let round = 0;
  /** A process that emits reaches all clients, and those that are there are on so many of Tidegate's. */
  const allAreReached = async (what) => until(async () => {
    emitter.to("all").emit(`${what}${++round}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    return clients.every((socket) => socket.heard.has(`${what}${round}`));
  }, `all clients to be reached: ${what}`);
  const onTidegate = async (server) => (await server.io.in("all").fetchSockets()).filter((socket) => socket.data.userId).length;
  await allAreReached("node alone");
  const tidegate = await startTidegate("redis", redis.port);
  await until(async () => (await a.io.serverSideEmitWithAck("hey").catch(() => [])).includes("tidegate"), "Tidegate to take part");
  write(a, tidegate);
  nginx.signal("SIGHUP");
  // Until nginx has read it, whoever leaves b would find only a. Tidegate's session ids are the longer ones.
  await until(async () => {
    const answer = await fetch(`${url}/socket.io/?EIO=4&transport=polling`, { headers: { connection: "close" } });
    return /"sid":"[^"]{40}"/.test(await answer.text());
  }, "nginx to know of Tidegate");
  await new Promise((resolve) => b.io.close(resolve));
  await allAreReached("one of each");
  // nginx's old worker accepts for a moment after the new one does, and knows a only: who came back through it is cut off.
  let turn = 0;
  await until(async () => {
    if ((await onTidegate(a)) > 0) return true;
    clients[turn++ % clients.length].io.engine?.close();
    await new Promise((resolve) => setTimeout(resolve, 300));
    return false;
  }, "clients on Tidegate");
  await allAreReached("some on each");
  // Back: Tidegate goes, a Node server comes.
  const c = nodeServer("redis", redis.port);
  write(a, c);
  nginx.signal("SIGHUP");
  await tidegate.kill("SIGTERM");
  await allAreReached("back on node");
  assert.equal(await onTidegate(a), 0);
  // And all the way.
  const last = await startTidegate("redis", redis.port);
  write(last);
  nginx.signal("SIGHUP");
  await Promise.all([a, c].map(({ io }) => new Promise((resolve) => io.close(resolve))));
  await allAreReached("tidegate alone");
}
