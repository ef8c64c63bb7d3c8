// Connection state recovery with the stock client: what was missed comes once and in order, or the client is told.
import { assert, joined, metric, next, range, relay, server, token, until } from "./lib.mjs";

const patient = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200, randomizationFactor: 0 };

const numbers = (socket) => socket.payloads().map((payload) => payload.n);

async function send(socket, room, from, count, persistent = false) {
  for (const n of range(count, from)) {
    const ack = await socket.call("room:send", { room, payload: { n }, persistent });
    assert.equal(ack.success, true, JSON.stringify(ack));
  }
}

async function cutAndCatchUp(transports, persistent) {
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url, transports, ...patient });
  await bob.call("room:join", { room: "pier" });
  const ada = await joined("ada", "quay");
  await ada.call("room:join", { room: "pier" });
  await send(ada, "quay", 0, 5, persistent);
  await until(() => bob.payloads().length === 5, "the first five");
  const id = bob.id;
  for (const round of range(3)) {
    const gone = next(bob, "disconnect");
    if (transports[0] === "polling") await line.polling();
    line.hold();
    await gone;
    await send(ada, round % 2 ? "pier" : "quay", 5 + round * 10, 7, persistent);
    await send(ada, "pier", 12 + round * 10, 3, persistent);
    const back = next(bob, "connect");
    line.release();
    await back;
    assert.equal(bob.recovered, true, `round ${round}`);
    assert.equal(bob.id, id, "the same Socket.IO id");
    await until(() => bob.payloads().length >= 15 + round * 10, "what was missed");
    assert.deepEqual(numbers(bob), range(15 + round * 10), "all, once, in order");
  }
  // The rooms came back with the session.
  await send(ada, "pier", 35, 1, persistent);
  await until(() => numbers(bob).includes(35), "live again");
  assert.equal((await bob.call("room:send", { room: "quay", payload: { n: 36 } })).success, true);
  assert.deepEqual((await bob.call("query:rooms", {})).rooms.sort(), ["pier", "quay"]);
}

export const afterACut = () => cutAndCatchUp(["websocket"], false);
export const afterACutPersistent = () => cutAndCatchUp(["websocket"], true);
export const afterACutPolling = () => cutAndCatchUp(["polling"], false);

export async function idleClientRecovers() {
  const line = await relay();
  const bob = await joined("bob", "still", { url: line.url, ...patient });
  const ada = await joined("ada", "still");
  const gone = next(bob, "disconnect");
  line.hold();
  await gone;
  await send(ada, "still", 0, 4);
  const back = next(bob, "connect");
  line.release();
  await back;
  assert.equal(bob.recovered, true, "no room message had come before the cut");
  await until(() => bob.payloads().length >= 4, "what was missed");
  assert.deepEqual(numbers(bob), range(4));
}

export async function underTraffic() {
  const line = await relay();
  const bob = await joined("bob", "surf", { url: line.url, ...patient });
  const senders = await Promise.all(range(4).map((n) => joined(`sender${n}`, "surf")));
  let sending = true;
  const counts = senders.map(() => 0);
  const traffic = Promise.all(senders.map(async (socket, who) => {
    while (sending && counts[who] < 180) {
      const n = counts[who]++;
      await socket.call("room:send", { room: "surf", payload: { who, n }, persistent: n % 3 === 0 });
    }
  }));
  for (const _ of range(5)) {
    const seen = bob.payloads().length;
    await until(() => bob.payloads().length > seen + 3 || counts.every((count) => count >= 180), "traffic");
    const back = next(bob, "connect");
    line.cut();
    await back;
    assert.equal(bob.recovered, true);
  }
  await traffic;
  sending = false;
  const total = counts.reduce((sum, count) => sum + count, 0);
  await until(() => bob.payloads().length >= total, `${total} messages, got ${bob.payloads().length}`);
  for (const who of range(4)) {
    assert.deepEqual(bob.payloads().filter((payload) => payload.who === who).map((payload) => payload.n), range(counts[who]), "all, once, in order");
  }
  assert.equal(bob.payloads().length, total);
}

async function afterARestart(signal) {
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay", { url: line.url, ...patient });
  await send(ada, "quay", 0, 5, true);
  await until(() => bob.payloads().length === 5 && ada.payloads().length === 5, "the first five");
  // Bob's line is cut first, so that he misses something that was acknowledged before the server died.
  const quiet = await relay();
  const cleo = await joined("cleo", "quay", { url: quiet.url, ...patient });
  await send(ada, "quay", 5, 1, true);
  await until(() => cleo.payloads().length === 1, "cleo's first");
  const cleoGone = next(cleo, "disconnect");
  quiet.hold();
  await cleoGone;
  await send(ada, "quay", 6, 6, true);
  await until(() => bob.payloads().length === 12, "bob's twelve");
  const down = Promise.all([next(bob, "disconnect"), next(ada, "disconnect")]);
  line.release();
  await server(signal);
  await server("wait");
  line.hold();
  await down;
  const { url } = await server("start");
  const back = Promise.all([bob, ada, cleo].map((socket) => next(socket, "connect")));
  line.release(url);
  quiet.release(url);
  await back;
  for (const [name, socket] of Object.entries({ bob, ada, cleo })) assert.equal(socket.recovered, true, `${name} after ${signal}`);
  await until(() => cleo.payloads().length >= 7, "what cleo missed");
  assert.deepEqual(numbers(cleo), range(7, 5), "acknowledged before the end, delivered after it, once");
  assert.deepEqual(numbers(bob), range(12), "nothing twice");
  await send(ada, "quay", 12, 3, true);
  await until(() => bob.payloads().length >= 15 && cleo.payloads().length >= 10, "live again");
  assert.deepEqual(numbers(bob), range(15));
  assert.deepEqual(numbers(cleo), range(10, 5));
  const past = await bob.call("room:history", { room: "quay" });
  assert.deepEqual(past.messages.map((message) => message.payload.n), range(15));
  const ids = past.messages.map((message) => message.id);
  assert.equal(new Set(ids).size, ids.length);
}

export const afterAStop = () => afterARestart("term");
export const afterAKill = () => afterARestart("kill");

export async function historySurvivesAKill() {
  const ada = await joined("ada", "log");
  let acknowledged = 0;
  const sending = (async () => {
    for (const n of range(180)) {
      const ack = await ada.call("room:send", { room: "log", payload: { n }, persistent: true });
      if (ack.success) acknowledged = n + 1;
    }
  })().catch(() => undefined);
  await until(() => acknowledged >= 60, "sixty acknowledged messages");
  await server("kill");
  await server("wait");
  const promised = acknowledged;
  ada.disconnect();
  await server("start");
  void sending;
  const bob = await joined("bob", "log");
  const past = await bob.call("room:history", { room: "log", limit: 1000 });
  const kept = past.messages.map((message) => message.payload.n);
  assert.deepEqual(kept, range(kept.length), "no hole");
  assert.ok(kept.length >= promised, `${promised} were acknowledged, ${kept.length} survived`);
  // Nothing new may take a place that was given away before the kill.
  const before = past.position;
  await send(bob, "log", 1000, 1, true);
  const since = await bob.call("room:history", { room: "log", since: before });
  assert.deepEqual(since.messages.map((message) => message.payload.n), [1000]);
}

export async function anotherUserCannotTakeASession() {
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay");
  await send(ada, "quay", 0, 2);
  await until(() => bob.payloads().length === 2, "two");
  const old = bob.id;
  const gone = next(bob, "disconnect");
  line.hold();
  await gone;
  await send(ada, "quay", 2, 3);
  bob.auth = { token: token("mallory") };
  const back = next(bob, "connect");
  line.release();
  await back;
  assert.equal(bob.recovered, false);
  assert.notEqual(bob.id, old);
  assert.deepEqual((await bob.call("query:rooms", {})).rooms, []);
  assert.deepEqual(numbers(bob), [0, 1], "nothing of bob's is given to mallory");
}

export async function anExpiredTokenRecoversNothing() {
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay");
  await send(ada, "quay", 0, 1);
  await until(() => bob.payloads().length === 1, "one");
  const gone = next(bob, "disconnect");
  line.hold();
  await gone;
  bob.auth = { token: token("bob", { expiresIn: -60 }) };
  const error = next(bob, "connect_error");
  line.release();
  let found = await error;
  // The first tries may still fail on the held line.
  while (found.message !== "Token expired") found = await next(bob, "connect_error");
  assert.equal(bob.connected, false);
}

export async function unknownSessionsAreNotRecovered() {
  for (const [pid, offset] of [["nosuchpid", "1.1"], ["nosuchpid", "garbage"], ["", ""], [7, 8], [{}, []], ["x".repeat(5000), "1.99999999999999999999"]]) {
    const bob = await joined("bob", "quay", { auth: { token: token("bob"), pid, offset } });
    assert.equal(bob.recovered, false, JSON.stringify([pid, offset]).slice(0, 40));
    bob.disconnect();
  }
}

export async function twoCannotRecoverTheSameSession() {
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay");
  await send(ada, "quay", 0, 1);
  await until(() => bob.payloads().length === 1, "one");
  const pid = bob._pid;
  const offset = bob._lastOffset;
  assert.ok(pid && offset, "the stock client keeps both");
  const gone = next(bob, "disconnect");
  line.hold();
  await gone;
  await send(ada, "quay", 1, 3);
  // `recovered` compares pids inside the client, which these never had: the rooms tell who has the session.
  const twin = await joined("bob", "elsewhere", { auth: { token: token("bob"), pid, offset } });
  assert.ok((await twin.call("query:rooms", {})).rooms.includes("quay"));
  await until(() => numbers(twin).length >= 3, "what was missed");
  assert.deepEqual(numbers(twin), [1, 2, 3]);
  const lost = next(twin, "disconnect");
  const other = await joined("bob", "elsewhere", { auth: { token: token("bob"), pid, offset } });
  await lost;
  assert.ok((await other.call("query:rooms", {})).rooms.includes("quay"), "whoever came last has it, alone");
  await until(() => numbers(other).length >= 3, "what was missed, again");
  assert.deepEqual(numbers(other), [1, 2, 3]);
  assert.deepEqual((await ada.call("query:presence", { room: "quay" })).presence.map((info) => info.userId).sort(), ["ada", "bob"]);
}

export async function comesBackBeforeTheLossIsNoticed() {
  // A phone changes networks: the old connection stays open at the server, silent, and the client is back on another.
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay");
  await send(ada, "quay", 0, 2);
  await until(() => bob.payloads().length === 2, "two");
  const id = bob.id;
  for (const round of range(3)) {
    const back = next(bob, "connect");
    line.strand();
    await send(ada, "quay", 2 + round * 2, 2);
    await back;
    assert.equal(bob.recovered, true, `round ${round}`);
    assert.equal(bob.id, id);
    await until(() => bob.payloads().length >= 4 + round * 2, "what was missed");
    assert.deepEqual(numbers(bob), range(4 + round * 2));
  }
  assert.deepEqual((await ada.call("query:presence", { room: "quay" })).presence.map((info) => info.userId).sort(), ["ada", "bob"]);
  // Ada, who stayed, may have seen him come and go, but in the end she sees him there, once.
  const seen = () => ada.log.reduce((users, { event, value }) => {
    if (event === "presence:update") return value.presence.map((info) => info.userId);
    if (event === "presence:join") return [...users, value.user.userId];
    if (event === "presence:leave") return users.filter((user) => user !== value.userId);
    return users;
  }, []);
  await until(() => seen().filter((user) => user === "bob").length === 1, "bob to be there, once");
}

export async function aWipedStoreIsToldApart() {
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay");
  await send(ada, "quay", 0, 3, true);
  await until(() => bob.payloads().length === 3, "three");
  await server("kill");
  await server("wait");
  line.hold();
  await server("wipe");
  const { url } = await server("start");
  const again = await joined("ada", "quay");
  await send(again, "quay", 100, 5, true);
  const back = next(bob, "connect");
  line.release(url);
  await back;
  assert.equal(bob.recovered, false, "another epoch is never a guess");
}

/** A client that stops reading is closed before it costs memory, nobody else waits for it, and it recovers. */
export async function slowConsumerIsClosedAndRecovers() {
  const bob = await joined("bob", "quay", { transports: ["websocket"], ...patient });
  const ada = await joined("ada", "quay", { transports: ["websocket"] });
  const stream = bob.io.engine.transport.ws._socket;
  stream.pause();
  const size = 400_000;
  const count = 60;
  for (const n of range(count)) {
    const ack = await ada.call("room:send", { room: "quay", payload: { n, filler: "x".repeat(size) } });
    assert.equal(ack.success, true, JSON.stringify(ack));
  }
  await until(() => ada.payloads().length === count, "the reader gets everything");
  await until(async () => await metric("websocket_disconnections_total", 'reason="slow_consumer"') === 1, "the slow one is closed");
  const back = next(bob, "connect");
  stream.resume();
  await back;
  assert.equal(bob.recovered, true);
  await until(() => bob.payloads().length >= count, "what was missed");
  assert.deepEqual(numbers(bob), range(count), "all, once, in order");
}
