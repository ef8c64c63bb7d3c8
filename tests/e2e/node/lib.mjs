// What the scenarios share: tokens, clients that end with the scenario, a TCP relay to cut, and the line to the Rust test
// that owns the server process.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { createInterface } from "node:readline";
import net from "node:net";
import { io } from "socket.io-client";

export { assert };

/** Longest wait for anything that must happen. Reached only when a test fails. */
export const PATIENCE_MS = 30_000;

export const settings = {
  url: process.env.TIDEGATE_URL,
  secret: process.env.TIDEGATE_JWT_SECRET,
  apiKey: process.env.TIDEGATE_API_KEY,
};

const closers = [];
/** Runs when the scenario ends, last registered first. */
export const atEnd = (close) => closers.push(close);
export async function closeAll() {
  for (const close of closers.reverse()) await close();
}

const base64url = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

/** A JWT of the rooms API, signed with the server's secret unless another is given. */
export function token(user, { tenant = "default", expiresIn = 3600, secret = settings.secret, alg = "HS256", ...more } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const claims = { sub: user, userId: user, tenantId: tenant, username: user, roles: [], permissions: [], iat: now - 10, exp: now + expiresIn, ...more };
  const head = `${base64url({ alg, typ: "JWT" })}.${base64url(claims)}`;
  if (alg === "none") return `${head}.`;
  return `${head}.${createHmac("sha256", secret).update(head).digest("base64url")}`;
}

/** A deadline that fails loudly with what was being waited for. */
export function within(promise, what, ms = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Resolves when `condition()` is true; looked at whenever `poke` fires and every few ms. */
export async function until(condition, what, ms = PATIENCE_MS) {
  const end = Date.now() + ms;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`waited ${ms} ms for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** The first argument of the next such event; a recoverable event has its offset as another. */
export const next = (emitter, event, ms) => within(new Promise((resolve) => emitter.once(event, resolve)), `event ${event}`, ms);

/** A client that records every event; not connected yet unless `autoConnect`. */
export function client(user, { url = settings.url, namespace = "", tenant, claims, ...options } = {}) {
  const socket = io(url + namespace, {
    auth: { token: token(user, { tenant, ...claims }) },
    forceNew: true,
    reconnection: false,
    transports: ["websocket"],
    timeout: PATIENCE_MS,
    ...options,
  });
  socket.log = [];
  socket.onAny((event, ...values) => socket.log.push({ event, value: values[0], values }));
  socket.of = (event) => socket.log.filter((entry) => entry.event === event).map((entry) => entry.value);
  socket.call = (event, body) => (body === undefined ? socket.timeout(PATIENCE_MS).emitWithAck(event) : socket.timeout(PATIENCE_MS).emitWithAck(event, body));
  socket.payloads = () => socket.of("room:message").map((message) => message.payload);
  atEnd(() => socket.disconnect());
  return socket;
}

export async function connected(user, options) {
  const socket = client(user, options);
  await within(new Promise((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("connect_error", reject);
  }), `${user} to be connected`, 2 * PATIENCE_MS);
  return socket;
}

export async function joined(user, room, options) {
  const socket = await connected(user, options);
  const ack = await socket.call("room:join", { room });
  assert.equal(ack.success, true, JSON.stringify(ack));
  return socket;
}

export async function refused(user, options) {
  const socket = client(user, options);
  const error = await within(new Promise((resolve, reject) => {
    socket.once("connect_error", resolve);
    socket.once("connect", () => reject(new Error("was let in")));
  }), "a refusal");
  return error;
}

/**
 * A TCP relay in front of the server: `cut()` kills what runs through it, `hold()` also refuses new connections.
 * `polling()` resolves when a poll waits at the server: a cut between two polls would only be noticed by its ping timeout.
 */
export async function relay(target = settings.url) {
  const sockets = new Set();
  const state = { target, refusing: false, polls: 0 };
  const server = net.createServer((near) => {
    if (state.refusing) return near.destroy();
    const { hostname, port } = new URL(state.target);
    const far = net.connect(Number(port), hostname);
    far.relayed = true;
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => { sockets.delete(one); if (!one.stranding) other.destroy(); });
    }
    let waiting = 0;
    const wait = (count) => { state.polls += count - waiting; waiting = count; };
    near.on("data", (chunk) => { if (chunk.subarray(0, 4).toString() === "GET ") wait(1); });
    far.on("data", () => wait(0));
    far.on("close", () => wait(0));
    near.pipe(far, { end: false });
    far.pipe(near);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  atEnd(() => { for (const socket of sockets) socket.destroy(); server.close(); });
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    polling: () => until(() => state.polls > 0, "a waiting poll"),
    /** The server reads all that was sent before the end, as when a process dies; clients see a reset. */
    cut() { for (const socket of sockets) if (socket.relayed) socket.end(); else socket.resetAndDestroy(); },
    /** Clients lose their connections; the server's ends stay open and silent. */
    strand() { for (const socket of [...sockets]) if (!socket.relayed) { socket.stranding = true; socket.resetAndDestroy(); } },
    hold() { state.refusing = true; this.cut(); },
    release(target) { if (target) state.target = target; state.refusing = false; },
  };
}

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
/** Asks the Rust side to do something with the server process: `term`, `kill`, `wait`, `start`. */
export async function server(action) {
  console.log(JSON.stringify({ do: action }));
  const { value } = await within(lines.next(), `the test to do ${action}`, 60_000);
  const answer = JSON.parse(value);
  if (answer.url) settings.url = answer.url;
  return answer;
}

/** Reads server-sent events from `path`. `events` grows, `id` is what a reconnect names; `closed` resolves when the stream ends. */
export async function stream(path, { headers = {}, url = settings.url } = {}) {
  const abort = new AbortController();
  const response = await within(fetch(url + path, { headers: { accept: "text/event-stream", ...headers }, signal: abort.signal }), `the head of ${path}`);
  const found = { status: response.status, headers: response.headers, events: [], id: null, comments: 0, retry: null, close: () => abort.abort() };
  if (response.status !== 200) {
    found.body = await response.text();
    return found;
  }
  atEnd(() => abort.abort());
  found.closed = (async () => {
    let rest = "";
    const decoder = new TextDecoder();
    try {
      for await (const chunk of response.body) {
        rest += decoder.decode(chunk, { stream: true });
        let end;
        while ((end = rest.indexOf("\n\n")) >= 0) {
          const event = { event: "message", data: "" };
          for (const line of rest.slice(0, end).split("\n")) {
            if (line.startsWith(":")) { found.comments += 1; continue; }
            const colon = line.indexOf(":");
            const field = colon < 0 ? line : line.slice(0, colon);
            const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
            if (field === "data") event.data += event.data ? `\n${value}` : value;
            else if (field === "retry") found.retry = Number(value);
            else event[field] = value;
          }
          // As in browsers: an id counts, whether an event comes with it or not.
          found.id = event.id ?? found.id;
          if (event.data) found.events.push(event);
          rest = rest.slice(end + 2);
        }
      }
    } catch (error) {
      if (error.name !== "AbortError") found.error = error;
    }
  })();
  found.messages = () => found.events.map((event) => JSON.parse(event.data)).filter((message) => message.payload !== undefined);
  return found;
}

export async function request(path, { method = "GET", body, headers = {}, url = settings.url } = {}) {
  const response = await fetch(url + path, {
    method,
    headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
    body: body === undefined ? undefined : typeof body === "string" ? body : JSON.stringify(body),
    signal: AbortSignal.timeout(PATIENCE_MS),
  });
  const text = await response.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* not JSON: the text is there */ }
  return { status: response.status, headers: response.headers, text, json };
}

/** The sum of a metric's samples whose labels contain all of `wanted`. */
export async function metric(name, ...wanted) {
  const { text } = await request("/metrics");
  return text.split("\n").filter((line) => (line.startsWith(`${name}{`) || line.startsWith(`${name} `)) && wanted.every((label) => line.includes(label)))
    .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

export const keysOf = (value) => Object.keys(value).sort();
export const range = (count, from = 0) => Array.from({ length: count }, (_, index) => index + from);
