// What the official test suite of the Engine.IO protocol (revision 4) asks of a server, each case written anew: the
// numbers are those that suite expects. The cases of HTTP and WebSocket alone also stand in the Socket.IO suite.
import WebSocket from "ws";
import { assert, atEnd, keysOf, range, within } from "./lib.mjs";

export const PING_INTERVAL_MS = 300;
export const PING_TIMEOUT_MS = 200;
const MAX_PAYLOAD = 1_000_000;
/** Mocha's default: a case that takes longer fails there. */
export const CASE_MS = 2_000;
/** What the suites give to their heartbeat cases. */
export const HEARTBEAT_MS = 5_000;

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * The requests of one case, on one endpoint. `exactly` as the suites: their listeners hear only what comes from then on,
 * and their clock gives no grace. The reference servers do not always pass so: they may put CONNECT and the event behind it
 * into one segment, of which such a listener hears the first; and their own timers are late on a busy machine.
 */
export function endpoint(base, path, { exactly = true } = {}) {
  const at = (query) => `${base}${path}?${query}`;
  const http = (query, init) => fetch(at(query), init);
  return {
    http,
    graceMs: exactly ? 0 : 500,
    open: () => http("EIO=4&transport=polling"),
    async session() {
      const text = await (await this.open()).text();
      return JSON.parse(text.slice(1)).sid;
    },
    poll: (sid, more = "", init) => http(`EIO=4&transport=polling&sid=${sid}${more}`, init),
    post: (sid, body) => http(`EIO=4&transport=polling&sid=${sid}`, { method: "POST", body }),
    websocket(query = "EIO=4&transport=websocket") {
      const socket = new WebSocket(at(query).replace("http", "ws"));
      socket.binaryType = "arraybuffer";
      socket.on("error", () => {});
      atEnd(() => socket.terminate());
      if (!exactly) pardon(socket);
      return socket;
    },
    upgrade(sid) { return this.websocket(`EIO=4&transport=websocket&sid=${sid}`); },
  };
}

/** The next event of a kind, listened for from now on: what has come before is lost. */
export const heard = (socket, kind) => new Promise((resolve) => socket.addEventListener(kind, resolve, { once: true }));
export const closed = (socket) => {
  // Node's server leaves it to the ping timeout to close a WebSocket whose client has sent packet 1.
  socket.fallSilent?.();
  return heard(socket, "close");
};
export const message = async (socket) => (socket.next ? socket.next() : (await heard(socket, "message")).data);
export const ping = async (socket) => (socket.pings ? socket.pings() : message(socket));

/** Messages one by one, none lost, as in the Engine.IO suite. */
function inbox(socket, wanted = () => true) {
  const arrived = [];
  const waiting = [];
  socket.addEventListener("message", ({ data }) => {
    if (wanted(data)) waiting.length ? waiting.shift()(data) : arrived.push(data);
  });
  return () => (arrived.length ? Promise.resolve(arrived.shift()) : new Promise((resolve) => waiting.push(resolve)));
}

/** Nothing is lost; pings are apart, and answered while a message is waited for, but not while the end is. */
function pardon(socket) {
  const next = inbox(socket, (data) => data !== "2");
  const pings = inbox(socket, (data) => data === "2");
  let lives = false;
  socket.addEventListener("message", ({ data }) => { if (data === "2" && lives) socket.send("3"); });
  socket.next = () => { lives = true; return next(); };
  socket.pings = pings;
  socket.fallSilent = () => { lives = false; };
}

function checkOpenPacket(text, upgrades) {
  assert.equal(text[0], "0");
  const open = JSON.parse(text.slice(1));
  assert.deepEqual(keysOf(open), ["maxPayload", "pingInterval", "pingTimeout", "sid", "upgrades"]);
  assert.equal(typeof open.sid, "string");
  assert.deepEqual(open.upgrades, upgrades);
  assert.equal(open.pingInterval, PING_INTERVAL_MS);
  assert.equal(open.pingTimeout, PING_TIMEOUT_MS);
  assert.equal(open.maxPayload, MAX_PAYLOAD);
}

async function status(wanted, ...responses) {
  for (const response of responses) assert.equal((await response).status, wanted);
}

async function content(response, wanted) {
  const got = await response;
  assert.equal(got.status, 200);
  assert.equal(await got.text(), wanted);
}

const handshake = (to) => [
  ["polling opens a session", async () => {
    const response = await to.open();
    assert.equal(response.status, 200);
    checkOpenPacket(await response.text(), ["websocket"]);
  }],
  ["polling without a valid EIO is refused", () => status(400, to.http("transport=polling"), to.http("EIO=abc&transport=polling"))],
  ["polling without a valid transport is refused", () => status(400, to.http("EIO=4"), to.http("EIO=4&transport=abc"))],
  ["a handshake by POST or PUT is refused", () => status(400,
    to.http("EIO=4&transport=polling", { method: "POST" }), to.http("EIO=4&transport=polling", { method: "PUT" }))],
  ["a WebSocket opens a session", async () => {
    const socket = to.websocket();
    checkOpenPacket(await message(socket), []);
    socket.close();
  }],
  ["a WebSocket without a valid EIO is closed", async () => {
    for (const query of ["transport=websocket", "EIO=abc&transport=websocket"]) await closed(to.websocket(query));
  }],
  ["a WebSocket without a valid transport is closed", async () => {
    for (const query of ["EIO=4", "EIO=4&transport=abc"]) await closed(to.websocket(query));
  }],
];

const heartbeat = (to) => [
  ["a polling session is pinged and lives on by its pongs", async () => {
    const sid = await to.session();
    for (const _ of range(3)) {
      await content(to.poll(sid), "2");
      await status(200, to.post(sid, "3"));
    }
  }, HEARTBEAT_MS],
  ["a polling session without pongs is closed in time", async () => {
    const sid = await to.session();
    await pause(PING_INTERVAL_MS + PING_TIMEOUT_MS + to.graceMs);
    await status(400, to.poll(sid));
  }, HEARTBEAT_MS],
  ["a WebSocket session is pinged and lives on by its pongs", async () => {
    const socket = to.websocket();
    await message(socket);
    for (const _ of range(3)) {
      assert.equal(await ping(socket), "2");
      socket.send("3");
    }
    socket.close();
  }, HEARTBEAT_MS],
  ["a WebSocket session without pongs is closed", () => closed(to.websocket()), HEARTBEAT_MS],
];

const close = (to) => [
  ["a polling session is closed by packet 1, its open poll ends with a noop", async () => {
    const sid = await to.session();
    const [polled] = await Promise.all([to.poll(sid), to.post(sid, "1")]);
    await content(polled, "6");
    await status(400, to.poll(sid));
  }],
  ["a WebSocket session is closed by packet 1", async () => {
    const socket = to.websocket();
    await message(socket);
    socket.send("1");
    await closed(socket);
  }],
];

/** The Engine.IO cases of the Socket.IO suite: nothing is said in the session, nothing is waited for after the upgrade. */
export const sharedCases = (to) => [
  ...handshake(to),
  ...heartbeat(to),
  ...close(to),
  ["an upgrade is probed", async () => {
    const socket = to.upgrade(await to.session());
    await heard(socket, "open");
    socket.send("2probe");
    assert.equal(await message(socket), "3probe");
    socket.send("5");
  }],
  ["polls of an upgraded session are refused, sent right behind the upgrade", async () => {
    const sid = await to.session();
    const socket = to.upgrade(sid);
    await heard(socket, "open");
    socket.send("2probe");
    socket.send("5");
    await status(400, to.poll(sid));
  }],
  ["a second WebSocket of an upgraded session is closed, opened right behind the upgrade", async () => {
    const sid = await to.session();
    const socket = to.upgrade(sid);
    await heard(socket, "open");
    socket.send("2probe");
    socket.send("5");
    await closed(to.upgrade(sid));
  }],
];

/** The cases of the Engine.IO suite: the endpoint answers each message with the same message. */
export const engineCases = (to) => [
  ...handshake(to),
  ...[
    ["one text packet", "4hello"],
    ["several text packets", "4test1\x1e4test2\x1e4test3"],
    ["text and binary", "4hello\x1ebAQIDBA=="],
  ].map(([what, payload]) => [`a polling payload of ${what} is echoed`, async () => {
    const sid = await to.session();
    await content(to.post(sid, payload), "ok");
    await content(to.poll(sid), payload);
  }]),
  ["a polling payload that is no packet closes the session", async () => {
    const sid = await to.session();
    // The suite takes any answer to it, and a cut connection too; Node's server says ok.
    await to.post(sid, "abc").catch(() => {});
    await status(400, to.poll(sid));
  }],
  ["a second poll at the same time closes the session", async () => {
    const sid = await to.session();
    const [first, second] = await Promise.all([to.poll(sid), pause(5).then(() => to.poll(sid, "&t=burst"))]);
    await content(first, "1");
    assert.ok([400, 500].includes(second.status), `${second.status}`);
    await status(400, to.poll(sid));
  }],
  ["a poll that is given up closes the session", async () => {
    const sid = await to.session();
    const abort = new AbortController();
    to.poll(sid, "", { signal: abort.signal }).catch(() => {});
    await pause(5);
    abort.abort();
    await status(400, to.poll(sid));
  }],
  ["a text message over WebSocket is echoed", async () => {
    const socket = to.websocket();
    const next = inbox(socket);
    await heard(socket, "open");
    await next();
    socket.send("4hello");
    assert.equal(await next(), "4hello");
    socket.close();
  }],
  ["a binary message over WebSocket is echoed", async () => {
    const socket = to.websocket();
    const next = inbox(socket);
    await next();
    socket.send(Uint8Array.from([1, 2, 3, 4]));
    assert.deepEqual(new Uint8Array(await next()), Uint8Array.from([1, 2, 3, 4]));
    socket.close();
  }],
  ["a WebSocket message that is no packet closes the session", async () => {
    const socket = to.websocket();
    await message(socket);
    socket.send("abc");
    await closed(socket);
  }],
  ...heartbeat(to),
  ...close(to),
  ["an upgrade is probed, ends the open poll with a noop, and carries messages", async () => {
    const sid = await to.session();
    const socket = to.upgrade(sid);
    const next = inbox(socket);
    await heard(socket, "open");
    socket.send("2probe");
    assert.equal(await next(), "3probe");
    await content(to.poll(sid), "6");
    socket.send("5");
    socket.send("4hello");
    assert.equal(await next(), "4hello");
  }],
  ["polls of an upgraded session are refused, and it lives on", async () => {
    const sid = await to.session();
    const socket = to.upgrade(sid);
    const next = inbox(socket);
    await heard(socket, "open");
    socket.send("2probe");
    await next();
    socket.send("5");
    await status(400, to.poll(sid));
    socket.send("4hello");
    assert.equal(await next(), "4hello");
  }],
  ["a second WebSocket of an upgraded session is closed, and the session lives on", async () => {
    const sid = await to.session();
    const socket = to.upgrade(sid);
    const next = inbox(socket);
    await heard(socket, "open");
    socket.send("2probe");
    await next();
    socket.send("5");
    await closed(to.upgrade(sid));
    socket.send("4hello");
    assert.equal(await next(), "4hello");
  }],
];

/** Runs cases one after the other, as mocha does, and tells all that fail. */
export async function runCases(suite, cases) {
  const failed = [];
  for (const [name, run, ms = CASE_MS] of cases) {
    try {
      await within(run(), "the case to end", ms);
    } catch (error) {
      failed.push(`${suite}: ${name}: ${error?.message ?? error}`);
    }
  }
  console.log(`${suite}: ${cases.length - failed.length} of ${cases.length} cases passed`);
  assert.deepEqual(failed, []);
}
