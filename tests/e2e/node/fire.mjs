// Recovery under fire: stock clients in one room, a steady stream of messages, and connections that are cut again and
// again, sometimes in the middle of a message or of a replay. Counts what each client saw.
//
// A scenario (`node run.mjs fire shortly`), and a program for `cargo xtask bench`:
//   node fire.mjs --url URL [--secret S] [--clients 30] [--rate 400] [--recoveries 1000] [--seed 1]
import { createHmac } from "node:crypto";
import net from "node:net";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client";

const ROOM = "fire";
/** As many users send; each stays below the rate that a user is granted. */
const SENDERS = 8;
/** A client that is not back after so long has failed. */
const PATIENCE_MS = 30_000;

/** Numbers that are the same for the same seed (mulberry32). */
function dice(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
async function until(condition, what, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await sleep(5);
  }
}

function token(user, secret) {
  if (!secret) return undefined;
  const base64url = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const now = Math.floor(Date.now() / 1000);
  const claims = { sub: user, userId: user, tenantId: "default", iat: now - 10, exp: now + 3600 };
  const head = `${base64url({ alg: "HS256", typ: "JWT" })}.${base64url(claims)}`;
  return `${head}.${createHmac("sha256", secret).update(head).digest("base64url")}`;
}

/**
 * A TCP relay that cuts what runs through it while `state.firing`: after some time, soon after the start (in the replay
 * that a client has come back for), or after some bytes, and then in the middle of whatever is being sent.
 */
async function cuttingRelay(url, random, state) {
  const { hostname, port } = new URL(url);
  const server = net.createServer((near) => {
    const far = net.connect(Number(port), hostname);
    near.setNoDelay(true);
    far.setNoDelay(true);
    const die = random();
    let bytes = Infinity;
    let timer;
    if (state.firing) {
      if (die < 0.4) timer = setTimeout(() => cut(), 50 + random() * 450);
      else if (die < 0.7) bytes = 130 + random() * 4_000;
      else bytes = 4_000 + random() * 60_000;
    }
    const cut = (part) => {
      clearTimeout(timer);
      bytes = Infinity;
      if (!state.firing || near.destroyed) return;
      state.cuts += 1;
      // What was sent before the cut arrives; what comes after it goes nowhere.
      if (part) near.end(part);
      else near.resetAndDestroy();
      far.resetAndDestroy();
    };
    for (const [one, other] of [[near, far], [far, near]]) {
      one.on("error", () => other.destroy());
      one.on("close", () => { clearTimeout(timer); other.destroy(); });
    }
    near.on("data", (chunk) => far.write(chunk));
    far.on("data", (chunk) => {
      if (near.destroyed || near.writableEnded) return;
      if (!state.firing || chunk.length < bytes) {
        bytes -= chunk.length;
        near.write(chunk);
      } else {
        cut(chunk.subarray(0, Math.floor(bytes)));
      }
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

/** A client in the room that writes down what it sees. */
function watcher(url, user, secret, figures) {
  const socket = io(url, {
    auth: { token: token(user, secret) },
    forceNew: true,
    transports: ["websocket"],
    reconnectionDelay: 10,
    reconnectionDelayMax: 60,
    // A stock client does not notice that its connection ends between the 101 and Engine.IO's first packet: this does.
    timeout: 3_000,
  });
  // By sender: the first and the last number since the last fresh start, and all that were seen.
  const senders = new Map();
  const watched = { socket, connects: 0, fresh: false, lastOf: (who) => senders.get(who)?.last ?? -1 };
  socket.on("room:message", ({ payload: { who, n } }) => {
    let sender = senders.get(who);
    if (sender === undefined) senders.set(who, (sender = { last: n - 1, seen: new Set(), told: false }));
    if (sender.seen.has(n)) {
      figures.repeated += 1;
      return;
    }
    sender.seen.add(n);
    if (n < sender.last) figures.reordered += 1;
    if (n > sender.last + 1) figures[sender.told ? "lost_told" : "lost"] += n - sender.last - 1;
    sender.told = false;
    sender.last = Math.max(sender.last, n);
  });
  socket.on("connect", () => {
    watched.connects += 1;
    if (watched.connects > 1 && socket.recovered) {
      figures.recovered += 1;
      return;
    }
    if (watched.connects > 1) {
      figures.not_recovered += 1;
      for (const sender of senders.values()) sender.told = true;
    }
    socket.emit("room:join", { room: ROOM }, () => { watched.joined = true; });
  });
  return watched;
}

/** Sends so many messages a second until told to stop; how many were sent and how many acknowledged. */
async function sender(url, who, secret, rate) {
  const socket = io(url, { auth: { token: token(`sender-${who}`, secret) }, forceNew: true, transports: ["websocket"] });
  await new Promise((resolve, reject) => { socket.once("connect", resolve); socket.once("connect_error", reject); });
  await socket.emitWithAck("room:join", { room: ROOM });
  const state = { sent: 0, acked: 0, refused: [] };
  const started = Date.now();
  const timer = setInterval(() => {
    const due = Math.floor(((Date.now() - started) / 1000) * rate);
    while (state.sent < due) {
      const n = state.sent++;
      // Both classes in one room: the persistent ones wait for the disk, and the others behind them.
      socket.emit("room:send", { room: ROOM, payload: { who, n, text: "x".repeat(100) }, persistent: n % 3 === 0 }, (ack) => {
        state.acked += 1;
        if (ack?.success === false) state.refused.push(ack.error);
      });
    }
  }, 5);
  state.stop = () => clearInterval(timer);
  state.close = () => socket.disconnect();
  return state;
}

/** Runs it; the counts. */
export async function fire({ url, secret, clients = 30, rate = 400, recoveries = 1_000, seed = 1, most_ms = 60_000 }) {
  const random = dice(seed);
  const figures = { clients, rate, recovered: 0, not_recovered: 0, lost: 0, lost_told: 0, repeated: 0, reordered: 0, missing_at_end: 0 };
  const state = { firing: false, cuts: 0 };
  const relay = await cuttingRelay(url, random, state);
  const watchers = Array.from({ length: clients }, (_, at) => watcher(relay.url, `watcher-${at}`, secret, figures));
  let senders = [];
  try {
    await until(() => watchers.every((watched) => watched.joined), "all clients to be in the room");
    senders = await Promise.all(Array.from({ length: SENDERS }, (_, who) => sender(url, who, secret, rate / SENDERS)));
    // Every client has heard every sender before the first cut.
    await until(() => watchers.every((watched) => senders.every((_, who) => watched.lastOf(who) >= 0)), "the first messages");
    state.firing = true;
    for (const { socket } of watchers) socket.io.engine.transport.ws._socket.resetAndDestroy();
    const started = Date.now();
    while (figures.recovered + figures.not_recovered < recoveries && Date.now() - started < most_ms) await sleep(10);
    state.firing = false;
    figures.seconds = (Date.now() - started) / 1000;
    for (const one of senders) one.stop();
    const complete = (watched) => watched.socket.connected && senders.every((one, who) => watched.lastOf(who) === one.sent - 1);
    // What is under way still comes; what does not come is missing.
    const settled = () => senders.every((one) => one.acked === one.sent) && watchers.every(complete);
    await until(settled, "the last messages", 15_000).catch(() => undefined);
    figures.unacknowledged = senders.reduce((sum, one) => sum + one.sent - one.acked, 0);
    figures.not_back = watchers.filter((watched) => !watched.socket.connected).length;
    for (const watched of watchers) {
      for (const [who, one] of senders.entries()) figures.missing_at_end += one.sent - 1 - watched.lastOf(who);
    }
    figures.messages = senders.reduce((sum, one) => sum + one.sent, 0);
    figures.refused = senders.reduce((sum, one) => sum + one.refused.length, 0);
  } finally {
    for (const { socket } of watchers) socket.disconnect();
    for (const one of senders) one.close();
    relay.close();
  }
  figures.cuts = state.cuts;
  figures.returns = figures.recovered + figures.not_recovered;
  const faults = figures.lost + figures.lost_told + figures.repeated + figures.reordered + figures.missing_at_end;
  figures.faults = faults;
  figures.faults_in_all = faults + figures.not_recovered + figures.not_back;
  figures.recovered_percent = (100 * figures.recovered) / Math.max(figures.returns, 1);
  return figures;
}

/** The scenario: a hundred recoveries, none with a fault. */
export async function shortly() {
  const { assert, settings } = await import("./lib.mjs");
  const figures = await fire({ url: settings.url, secret: settings.secret, clients: 12, rate: 200, recoveries: 150, seed: Number(process.env.SEED ?? 1) });
  console.error(JSON.stringify(figures));
  assert.ok(figures.recovered >= 150, JSON.stringify(figures));
  assert.deepEqual([figures.faults_in_all, figures.refused, figures.unacknowledged], [0, 0, 0], JSON.stringify(figures));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const options = {};
  for (let at = 2; at + 1 < process.argv.length; at += 2) {
    const value = process.argv[at + 1];
    options[process.argv[at].replace(/^--/, "")] = /^\d+$/.test(value) ? Number(value) : value;
  }
  try {
    console.log(JSON.stringify(await fire(options)));
    process.exit(0);
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
}
