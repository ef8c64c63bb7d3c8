// Kill drills: three nodes and one Redis under load, a fault, and the account of every message of every client.
//
//   node drills.mjs --server tidegate --binary PATH [--fault kill] [--rate 50] [--runs 20] [--clients 60]
//   node drills.mjs --server node ...          (socket.io with the streams adapter and recovery)
//   node drills.mjs --server node-pubsub ...   (socket.io with the pub/sub adapter)
//
// A line of progress for each run on stderr, one JSON object of all on stdout. Without --fault: all faults.
//
// The clients are stock clients behind a relay that gives each new connection to the next node that lives: no sticky
// sessions. Senders are on nodes that no fault hits; each acknowledged message has to reach every client, once and in
// order, or the client has to be told that it missed something.
import { execFileSync, spawn } from "node:child_process";
import { createHmac } from "node:crypto";
import { mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";

const ROOM = "drill";
const SECRET = "drilled-on-loopback-with-a-secret-of-48-bytes-okay";
const SENDERS = 4;
const NODES = 3;
/** The node that faults of nodes hit: it has clients and no sender. */
const VICTIM = 2;
const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(condition, what, ms = 20_000) {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await sleep(5);
  }
}

/** A port that is free now. */
async function freePort() {
  const server = net.createServer();
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function listening(port, child, what, host = "127.0.0.1") {
  const end = Date.now() + 20_000;
  for (;;) {
    const open = await new Promise((resolve) => {
      const socket = net.connect(port, host, () => { socket.destroy(); resolve(true); });
      socket.on("error", () => resolve(false));
    });
    if (open) return;
    if (child.exitCode !== null || Date.now() > end) throw new Error(`${what} does not listen`);
    await sleep(20);
  }
}

const ended = (child) => new Promise((resolve) => (child.exitCode !== null || child.signalCode !== null ? resolve() : child.once("exit", resolve)));

/** A real redis-server; `aof` keeps every write in a file that is flushed each second. */
async function startRedis(dir, port, aof, hosts) {
  const args = ["--bind", ...hosts, "--protected-mode", "no", "--port", String(port), "--save", "", "--dir", dir];
  args.push("--appendonly", aof ? "yes" : "no", "--appendfsync", "everysec");
  const log = openSync(join(dir, "redis.log"), "a");
  const child = spawn("redis-server", args, { stdio: ["ignore", log, log] });
  await listening(port, child, "redis-server");
  return child;
}

/**
 * A network namespace of its own for one node, joined to ours by a pair of devices that can be taken down: packets then go
 * nowhere, and nobody is told. Needs root.
 */
function namespace() {
  const name = `tgdrill${process.pid}`;
  const third = process.pid % 250;
  const [ours, theirs] = [`10.77.${third}.1`, `10.77.${third}.2`];
  const ip = (...args) => execFileSync("ip", args);
  ip("netns", "add", name);
  ip("link", "add", `tgo${process.pid}`, "type", "veth", "peer", "name", "inside", "netns", name);
  ip("addr", "add", `${ours}/24`, "dev", `tgo${process.pid}`);
  ip("link", "set", `tgo${process.pid}`, "up");
  ip("-n", name, "addr", "add", `${theirs}/24`, "dev", "inside");
  ip("-n", name, "link", "set", "inside", "up");
  ip("-n", name, "link", "set", "lo", "up");
  return { name, ours, theirs, down: () => ip("link", "set", `tgo${process.pid}`, "down"), up: () => ip("link", "set", `tgo${process.pid}`, "up"), remove: () => ip("netns", "del", name) };
}

function startNode(place, at) {
  const port = place.ports[at];
  const log = openSync(join(place.dir, `node-${at}.log`), "a");
  const stdio = ["ignore", log, log];
  if (place.server === "tidegate") {
    const config = join(place.dir, `node-${at}.toml`);
    writeFileSync(config, place.config(at));
    const command = [place.binary, "run", "--config", config];
    if (at === VICTIM && place.netns) command.unshift("ip", "netns", "exec", place.netns.name);
    return spawn(command[0], command.slice(1), { stdio });
  }
  if (place.netns) throw new Error("the fault `netns` is for tidegate");
  const adapter = place.server === "node" ? { RECOVERY: "redis" } : { ADAPTER: "pubsub" };
  const env = { ...process.env, NODE_ENV: "production", PORT: String(port), REDIS_PORT: String(place.links[at].port), ...adapter };
  return spawn("node", [join(ROOT, "bench/peers/node/server.js")], { stdio, env });
}

/** The shortest config of a node that is one of several. */
function configOf(place, at) {
  const apart = at === VICTIM ? place.netns : undefined;
  // Nodes that reach one another over the pair of devices have to be told of each other's end of it.
  const internal = place.netns ? `internal_listen = "${apart ? apart.theirs : place.netns.ours}:0"\n` : "";
  return `workers = 1
[[listener]]
name = "public"
address = "${place.hosts[at]}:${place.ports[at]}"
[admin]
address = "127.0.0.1:0"
[cluster]
${internal}redis = "redis://${apart ? `${apart.ours}:${place.redisPort}` : `127.0.0.1:${place.links[at].port}`}"
name = "node-${at}"
secret = "${SECRET}"
[realtime]
broker = "redis"
connections_per_ip = 0
messages_per_second = 100000
message_burst = 100000
[realtime.auth]
jwt_secret = "${SECRET}"
[drain]
timeout = "10s"
`;
}

/** A relay to one of several ports; `next` says to which. What runs through it can be cut. */
async function relay(next) {
  const state = { pairs: new Set(), dead: false };
  const server = net.createServer((near) => {
    near.setNoDelay(true);
    near.on("error", () => {});
    if (state.dead) { near.resetAndDestroy(); return; }
    const tried = new Set();
    const attempt = () => {
      const port = next(tried);
      if (port === undefined) { near.resetAndDestroy(); return; }
      tried.add(port);
      const far = net.connect(port, state.hosts?.get(port) ?? "127.0.0.1");
      far.setNoDelay(true);
      let open = false;
      far.on("connect", () => {
        open = true;
        const pair = { near, far, port };
        state.pairs.add(pair);
        const over = () => { state.pairs.delete(pair); near.destroy(); far.destroy(); };
        near.on("close", over);
        far.on("close", over);
        near.pipe(far);
        far.pipe(near);
      });
      far.on("error", () => { if (!open) attempt(); });
    };
    attempt();
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return Object.assign(state, {
    port: server.address().port,
    /** Cuts what runs through it now. */
    cut: (which = () => true) => { for (const pair of [...state.pairs]) if (which(pair)) { pair.near.resetAndDestroy(); pair.far.resetAndDestroy(); } },
    close: () => { state.dead = true; server.close(); for (const { near, far } of state.pairs) { near.destroy(); far.destroy(); } },
  });
}

function token(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const head = `${part({ alg: "HS256", typ: "JWT" })}.${part({ sub: user, userId: user, tenantId: "default", iat: now - 10, exp: now + 3600 })}`;
  return `${head}.${createHmac("sha256", SECRET).update(head).digest("base64url")}`;
}

/** A stock client that writes down what it sees. */
function watch(url, user, transports) {
  const socket = io(url, { auth: { token: token(user) }, forceNew: true, transports, reconnectionDelay: 100, reconnectionDelayMax: 300, timeout: 3_000 });
  const watched = { socket, seen: Array.from({ length: SENDERS }, () => []), connects: 0, recovered: 0, fresh: 0, gaps: 0, told: false, cutAt: undefined, firstMs: [], backAt: [] };
  socket.on("disconnect", () => { watched.cutAt ??= Date.now(); });
  socket.on("connect", () => {
    watched.connects += 1;
    if (watched.connects > 1) {
      watched.backAt.push(Date.now());
      if (socket.recovered) watched.recovered += 1;
      else { watched.fresh += 1; watched.told = true; }
    }
    if (!socket.recovered) socket.emit("room:join", { room: ROOM }, (answer) => { watched.joined = answer?.success !== false; });
  });
  socket.on("room:gap", () => { watched.gaps += 1; watched.told = true; });
  socket.on("room:message", ({ payload: { who, n } }) => {
    if (watched.cutAt !== undefined && socket.connected) {
      watched.firstMs.push(Date.now() - watched.cutAt);
      watched.cutAt = undefined;
    }
    watched.seen[who].push(n);
  });
  return watched;
}

async function sender(url, who, rate) {
  const socket = io(url, { auth: { token: token(`sender-${who}`) }, forceNew: true, transports: ["websocket"], reconnectionDelay: 100, reconnectionDelayMax: 300 });
  const state = { sent: 0, acked: new Set(), refused: new Map(), open: new Set() };
  socket.on("connect", () => { if (!socket.recovered) socket.emit("room:join", { room: ROOM }, (answer) => { state.joined = answer?.success !== false; }); });
  await until(() => state.joined, "a sender to be in the room");
  const started = Date.now();
  const timer = setInterval(() => {
    const due = Math.floor(((Date.now() - started) / 1000) * rate);
    while (state.sent < due) {
      const n = state.sent++;
      state.open.add(n);
      socket.emit("room:send", { room: ROOM, payload: { who, n, text: "x".repeat(100) }, persistent: true }, (answer) => {
        state.open.delete(n);
        if (answer?.success === false) state.refused.set(n, answer.error);
        else state.acked.add(n);
      });
    }
  }, 5);
  return Object.assign(state, { stop: () => clearInterval(timer), close: () => socket.disconnect() });
}

/** What can go wrong. Each is given the place and resolves when the fault is over. */
const FAULTS = {
  kill: async (place) => { place.children[VICTIM].kill("SIGKILL"); await sleep(3_000); },
  term: async (place) => { place.children[VICTIM].kill("SIGTERM"); await sleep(4_000); },
  cuts: async (place) => {
    const end = Date.now() + 5_000;
    while (Date.now() < end) {
      const pairs = [...place.front.pairs];
      const one = pairs[Math.floor(Math.random() * pairs.length)];
      if (one) place.front.cut((pair) => pair === one);
      await sleep(15);
    }
    await sleep(500);
  },
  "redis-connections": async (place) => {
    for (let turn = 0; turn < 3; turn++) {
      for (const type of ["normal", "pubsub"]) execFileSync("redis-cli", ["-p", String(place.redisPort), "CLIENT", "KILL", "TYPE", type]);
      // A client that drops at the same time.
      const [one] = place.front.pairs;
      if (one) place.front.cut((pair) => pair === one);
      await sleep(700);
    }
    await sleep(1_500);
  },
  "redis-stop": async (place) => { place.redis.kill("SIGSTOP"); await sleep(3_000); place.redis.kill("SIGCONT"); await sleep(3_000); },
  "redis-kill": async (place) => {
    place.redis.kill("SIGKILL");
    await ended(place.redis);
    await sleep(1_000);
    place.redis = await startRedis(place.dir, place.redisPort, place.aof, ["127.0.0.1"]);
    await sleep(5_000);
  },
  link: async (place) => {
    // The victim cannot reach Redis, and nothing tells it: its packets go nowhere.
    for (const { near, far } of place.links[VICTIM].pairs) { near.unpipe(far); far.unpipe(near); near.pause(); far.pause(); }
    await sleep(4_000);
    place.links[VICTIM].cut();
    await sleep(3_000);
  },
};
/** The victim is cut off from everything, longer than it takes to be declared dead, and comes back. */
FAULTS.netns = async (place) => { place.netns.down(); await sleep(7_000); place.netns.up(); await sleep(5_000); };
FAULTS["redis-kill-aof"] = FAULTS["redis-kill"];

async function once({ server, binary, fault, rate, clients, transports }) {
  const dir = mkdtempSync(join(tmpdir(), "tidegate-drill-"));
  mkdirSync(dir, { recursive: true });
  const place = { server, binary, dir, aof: fault === "redis-kill-aof", ports: [], hosts: [], links: [], children: [] };
  place.config = (at) => configOf(place, at);
  const watchers = [];
  const senders = [];
  try {
    place.redisPort = await freePort();
    if (fault === "netns") place.netns = namespace();
    place.redis = await startRedis(dir, place.redisPort, place.aof, ["127.0.0.1", ...(place.netns ? [place.netns.ours] : [])]);
    for (let at = 0; at < NODES; at++) {
      place.ports.push(await freePort());
      place.hosts.push(place.netns && at === VICTIM ? place.netns.theirs : "127.0.0.1");
      // Each node has a way to Redis of its own that can be cut.
      place.links.push(await relay((tried) => (tried.has(place.redisPort) ? undefined : place.redisPort)));
    }
    place.children = Array.from({ length: NODES }, (_, at) => startNode(place, at));
    await Promise.all(place.ports.map((port, at) => listening(port, place.children[at], `node ${at}`, place.hosts[at])));
    let turn = 0;
    place.front = await relay((tried) => {
      for (let step = 0; step < NODES; step++) {
        const port = place.ports[turn++ % NODES];
        if (!tried.has(port)) return port;
      }
      return undefined;
    });
    place.front.hosts = new Map(place.ports.map((port, at) => [port, place.hosts[at]]));
    for (let at = 0; at < clients; at++) watchers.push(watch(`http://127.0.0.1:${place.front.port}`, `watcher-${at}`, transports));
    await until(() => watchers.every((one) => one.joined), "all clients to be in the room");
    for (let who = 0; who < SENDERS; who++) senders.push(await sender(`http://127.0.0.1:${place.ports[who % VICTIM]}`, who, rate / SENDERS));
    await until(() => watchers.every((one) => one.seen.every((seen) => seen.length > 0)), "the first messages");
    const struckAt = Date.now();
    await FAULTS[fault](place);
    for (const one of senders) one.stop();
    await until(() => senders.every((one) => one.open.size === 0), "the last acks", 10_000).catch(() => undefined);
    // What was refused may have been published all the same: counting would take it for what is still to come.
    const has = (seen, acked) => { const set = new Set(seen); return [...acked].every((n) => set.has(n)); };
    const complete = (one) => one.socket.connected && one.seen.every((seen, who) => one.told || has(seen, senders[who].acked));
    await until(() => watchers.every(complete), "the last messages", 3_000).catch(() => undefined);
    return account(watchers, senders, place, struckAt);
  } finally {
    for (const { socket } of watchers) socket.disconnect();
    for (const one of senders) { one.stop(); one.close(); }
    place.front?.close();
    for (const link of place.links) link.close();
    for (const child of [...place.children, place.redis]) if (child && child.exitCode === null) { child.kill("SIGCONT"); child.kill("SIGKILL"); }
    place.netns?.remove();
    if (!process.env.KEEP) rmSync(dir, { recursive: true, force: true });
    else console.error(dir);
  }
}

/** Holds what every client saw against what was acknowledged. */
function account(watchers, senders, place, struckAt) {
  const sum = { lost: 0, lost_told: 0, repeated: 0, reordered: 0, recovered: 0, not_recovered: 0, gaps: 0, not_back: 0, clients_hit: 0 };
  const first = [];
  const back = [];
  for (const one of watchers) {
    sum.recovered += one.recovered;
    sum.not_recovered += one.fresh;
    sum.gaps += one.gaps;
    sum.not_back += one.socket.connected ? 0 : 1;
    sum.clients_hit += one.connects > 1 || one.gaps > 0 ? 1 : 0;
    first.push(...one.firstMs);
    back.push(...one.backAt);
    for (const [who, seen] of one.seen.entries()) {
      const set = new Set(seen);
      sum.repeated += seen.length - set.size;
      for (let at = 1; at < seen.length; at++) sum.reordered += seen[at] < seen[at - 1] ? 1 : 0;
      const from = seen[0] ?? 0;
      for (const n of senders[who].acked) if (n >= from && !set.has(n)) sum[one.told ? "lost_told" : "lost"] += 1;
    }
  }
  first.sort((a, b) => a - b);
  back.sort((a, b) => a - b);
  const at = (list, share) => list[Math.min(list.length - 1, Math.floor(list.length * share))];
  return {
    ...sum,
    sent: senders.reduce((all, one) => all + one.sent, 0),
    acked: senders.reduce((all, one) => all + one.acked.size, 0),
    refused: senders.reduce((all, one) => all + one.refused.size, 0),
    unanswered: senders.reduce((all, one) => all + one.open.size, 0),
    first_message_ms: first,
    first_message_p99_ms: at(first, 0.99),
    back_spread_ms: back.length > 1 ? back[back.length - 1] - back[0] : undefined,
    last_back_ms: back.length > 0 ? back[back.length - 1] - struckAt : undefined,
    nodes_that_ended: place.children.filter((child, index) => child.exitCode !== null && index !== VICTIM).length,
  };
}

/** Runs one drill several times; the sums. */
export async function drill({ server = "tidegate", binary, fault = "kill", rate = 50, runs = 1, clients = 60, transports = ["websocket"] }) {
  const total = { server, fault, rate, runs: 0, clients };
  const first = [];
  for (let run = 0; run < runs; run++) {
    const { first_message_ms, first_message_p99_ms, ...one } = await once({ server, binary, fault, rate, clients, transports });
    first.push(...first_message_ms);
    console.error(`${server} ${fault} ${rate}/s run ${run + 1}/${runs}: ${JSON.stringify({ ...one, first_message_p99_ms })}`);
    total.runs += 1;
    for (const [key, value] of Object.entries(one)) {
      if (value === undefined) continue;
      total[key] = /spread|last_back/.test(key) ? Math.max(total[key] ?? 0, value) : (total[key] ?? 0) + value;
    }
  }
  first.sort((a, b) => a - b);
  total.first_message_p50_ms = first[Math.floor(first.length * 0.5)];
  total.first_message_p99_ms = first[Math.min(first.length - 1, Math.floor(first.length * 0.99))];
  return total;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const options = {};
  for (let at = 2; at + 1 < process.argv.length; at += 2) {
    const value = process.argv[at + 1];
    options[process.argv[at].replace(/^--/, "")] = /^\d+$/.test(value) ? Number(value) : value;
  }
  if (options.transports) options.transports = options.transports.split(",");
  const faults = options.fault ? options.fault.split(",") : Object.keys(FAULTS);
  const rates = options.rate ? [options.rate] : [50, 500];
  const results = [];
  try {
    for (const fault of faults) for (const rate of rates) results.push(await drill({ ...options, fault, rate }));
    console.log(JSON.stringify(results));
    process.exit(0);
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
}
