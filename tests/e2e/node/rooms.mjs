// The rooms API: names, shapes and orders exactly as it is documented.
import { assert, connected, joined, keysOf, next, range, until } from "./lib.mjs";

const events = (socket) => socket.log.map((entry) => entry.event);
const isPresence = (info, user, status = "online") => {
  assert.equal(info.userId, user);
  assert.equal(info.status, status);
  assert.equal(typeof info.lastSeen, "number");
  assert.ok(Math.abs(Date.now() - info.lastSeen) < 120_000, "lastSeen is in ms");
  for (const key of keysOf(info)) assert.ok(["userId", "username", "status", "lastSeen", "metadata", "activeConnections", "currentActivity", "customStatus"].includes(key), key);
};

export async function joinOrder() {
  const ada = await joined("ada", "quay");
  const bob = await connected("bob");
  bob.log.length = 0;
  const order = [];
  bob.onAny((event) => order.push(event));
  const heard = next(ada, "presence:join");
  // A callback, because a promise's continuation would run after the events that came in the same read.
  const ack = await new Promise((resolve) => bob.emit("room:join", { room: "quay", metadata: { seat: 4 } }, (value) => { order.push("ack"); resolve(value); }));
  assert.deepEqual(ack, { success: true });
  await until(() => order.includes("presence:update"), "presence:update");
  assert.deepEqual(order.slice(0, 3), ["room:joined", "ack", "presence:update"]);
  assert.deepEqual(bob.of("room:joined"), [{ room: "quay", metadata: { seat: 4 } }]);
  const update = bob.of("presence:update")[0];
  assert.deepEqual(keysOf(update), ["presence", "room"]);
  assert.deepEqual(update.presence.map((info) => info.userId).sort(), ["ada", "bob"]);
  update.presence.forEach((info) => isPresence(info, info.userId));
  const join = await heard;
  assert.deepEqual(keysOf(join), ["room", "user"]);
  assert.equal(join.room, "quay");
  isPresence(join.user, "bob");
  assert.equal(bob.of("presence:join").length, 0, "the joiner does not hear of itself");
  const plain = await joined("cleo", "plain");
  assert.deepEqual(plain.of("room:joined"), [{ room: "plain" }]);
}

export async function messageShape() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  const arrived = Promise.all([next(ada, "room:message"), next(bob, "room:message")]);
  const ack = await ada.call("room:send", { room: "quay", payload: { text: "hello", userId: "mallory" } });
  assert.deepEqual(keysOf(ack), ["messageId", "success"]);
  const [own, other] = await arrived;
  assert.deepEqual(own, other, "the sender gets the same message");
  for (const key of ["from", "id", "payload", "room", "timestamp"]) assert.ok(key in own, key);
  assert.equal(own.id, ack.messageId);
  assert.equal(own.from, "ada", "the token's user, whatever the payload says");
  assert.equal(own.room, "quay");
  assert.deepEqual(own.payload, { text: "hello", userId: "mallory" });
  assert.ok(Math.abs(Date.now() - own.timestamp) < 120_000);
  const payloads = [null, true, 0, -1.5, "text", [], {}, [1, [2, { a: null }]], "\u{1F30A}"];
  for (const payload of payloads) assert.equal((await bob.call("room:send", { room: "quay", payload })).success, true);
  await until(() => ada.payloads().length === payloads.length + 1, "all payloads");
  assert.deepEqual(ada.payloads().slice(1), payloads);
}

export async function leaveAndQueries() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  await bob.call("room:join", { room: "pier" });
  assert.deepEqual((await bob.call("query:rooms", {})).rooms.sort(), ["pier", "quay"]);
  const queried = await ada.call("query:presence", { room: "quay" });
  assert.deepEqual(keysOf(queried).filter((key) => key !== "count"), ["presence"]);
  assert.deepEqual(queried.presence.map((info) => info.userId).sort(), ["ada", "bob"]);
  const heard = next(ada, "presence:leave");
  bob.log.length = 0;
  assert.deepEqual(await bob.call("room:leave", { room: "quay" }), { success: true });
  assert.deepEqual(bob.of("room:left"), [{ room: "quay" }]);
  assert.deepEqual(await heard, { room: "quay", userId: "bob" });
  assert.deepEqual((await bob.call("query:rooms", {})).rooms, ["pier"]);
  const alone = await ada.call("query:presence", { room: "quay" });
  assert.deepEqual(alone.presence.map((info) => info.userId), ["ada"]);
  await ada.call("room:send", { room: "quay", payload: "after" });
  // The message has its place in the room once it is delivered; the ack alone says that it is accepted.
  await until(() => ada.payloads().length === 1, "ada's own message");
  await bob.call("room:join", { room: "quay" });
  assert.deepEqual(bob.payloads(), [], "what was said while away is not delivered");
}

export async function queryRoomsTakesItsAckAlone() {
  const ada = await joined("ada", "quay");
  assert.deepEqual(await ada.call("query:rooms"), { rooms: ["quay"] });
}

export async function presenceOfOneUserTwice() {
  const ada = await joined("ada", "quay");
  const one = await joined("bob", "quay");
  const two = await joined("bob", "quay");
  await until(() => ada.of("presence:join").length >= 1, "presence:join");
  one.disconnect();
  await ada.call("room:send", { room: "quay", payload: "barrier" });
  assert.equal((await ada.call("query:presence", { room: "quay" })).presence.length, 2, "bob is still there");
  const heard = next(ada, "presence:leave");
  two.disconnect();
  assert.deepEqual(await heard, { room: "quay", userId: "bob" });
  assert.equal(ada.of("presence:join").filter((join) => join.user.userId === "bob").length, 1);
  assert.equal(ada.of("presence:leave").length, 1);
  assert.deepEqual((await ada.call("query:presence", { room: "quay" })).presence.map((info) => info.userId), ["ada"], "no ghost stays");
}

export async function presenceStatus() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  const of = (user) => ada.of("presence:update").filter((update) => update.room === "quay").flatMap((update) => update.presence).filter((info) => info.userId === user).at(-1);
  bob.emit("presence:status", { status: "busy", metadata: { mood: "calm", ship: "Tern" } });
  await until(() => of("bob")?.status === "busy", "busy");
  assert.deepEqual(of("bob").metadata, { mood: "calm", ship: "Tern" });
  bob.emit("presence:status", { status: "away", metadata: { mood: "stormy", knots: 7 } });
  await until(() => of("bob")?.status === "away", "away");
  assert.deepEqual(of("bob").metadata, { mood: "stormy", ship: "Tern", knots: 7 }, "metadata merges");
  bob.emit("presence:heartbeat", { status: "online" });
  await until(() => of("bob")?.status === "online", "online again");
  bob.emit("presence:heartbeat");
  bob.emit("presence:heartbeat", {});
  const late = await joined("cleo", "quay");
  await until(() => late.of("presence:update").length > 0, "presence:update");
  const seen = late.of("presence:update")[0].presence.find((info) => info.userId === "bob");
  isPresence(seen, "bob");
  assert.deepEqual(seen.metadata, { mood: "stormy", ship: "Tern", knots: 7 });
  const complaint = next(bob, "system:error");
  bob.emit("presence:status", { status: "elsewhere" });
  assert.equal((await complaint).code, "PRESENCE_UPDATE_FAILED");
}

export async function notInRoom() {
  const ada = await joined("ada", "quay");
  const bob = await connected("bob");
  const complaint = next(bob, "system:error");
  const ack = await bob.call("room:send", { room: "quay", payload: "from outside" });
  assert.equal(ack.success, false);
  const error = await complaint;
  assert.deepEqual(keysOf(error), ["code", "message"]);
  assert.equal(error.code, "NOT_IN_ROOM");
  await ada.call("room:send", { room: "quay", payload: "barrier" });
  await until(() => ada.payloads().length > 0, "the barrier");
  assert.deepEqual(ada.payloads(), ["barrier"]);
}

export async function badRequests() {
  const ada = await joined("ada", "quay");
  const cases = [["room:join", {}, "ROOM_JOIN_FAILED"], ["room:join", { room: "" }, "ROOM_JOIN_FAILED"], ["room:join", { room: 7 }, "ROOM_JOIN_FAILED"], ["room:join", { room: "x".repeat(1000) }, "ROOM_JOIN_FAILED"],
    ["room:join", null, "ROOM_JOIN_FAILED"], ["room:join", [], "ROOM_JOIN_FAILED"], ["room:leave", {}, "ROOM_LEAVE_FAILED"], ["room:send", {}, "MESSAGE_SEND_FAILED"], ["room:send", "text", "MESSAGE_SEND_FAILED"]];
  for (const [event, body, code] of cases) {
    const complaint = next(ada, "system:error");
    const ack = await ada.call(event, body);
    assert.equal(ack.success, false, `${event} ${JSON.stringify(body)?.slice(0, 30)}: ${JSON.stringify(ack)}`);
    assert.equal((await complaint).code, code, `${event} ${JSON.stringify(body)?.slice(0, 30)}`);
  }
  ada.emit("no:such:event", { a: 1 });
  assert.equal((await ada.call("room:send", { room: "quay", payload: "fine" })).success, true, "the connection lives on");
}

export async function tenantsAreIsolated() {
  const north = await joined("ada", "quay", { tenant: "north" });
  const south = await joined("ada", "quay", { tenant: "south" });
  const other = await joined("bob", "quay", { tenant: "south" });
  await north.call("room:send", { room: "quay", payload: "of the north", persistent: true });
  await other.call("room:send", { room: "quay", payload: "of the south", persistent: true });
  await north.call("presence:status", { status: "busy", metadata: { tenant: "north" } }).catch(() => undefined);
  await until(() => north.payloads().length > 0 && south.payloads().length > 0 && other.payloads().length > 0, "own messages");
  assert.deepEqual(north.payloads(), ["of the north"]);
  assert.deepEqual(south.payloads(), ["of the south"]);
  assert.deepEqual(other.payloads(), ["of the south"]);
  const names = async (socket) => (await socket.call("query:presence", { room: "quay" })).presence.map((info) => info.userId).sort();
  assert.deepEqual(await names(north), ["ada"]);
  assert.deepEqual(await names(south), ["ada", "bob"]);
  assert.ok(!JSON.stringify(north.log).includes("bob"), "presence does not leak");
  assert.ok(!JSON.stringify([south.log, other.log]).includes("north"));
  assert.deepEqual((await north.call("room:history", { room: "quay" })).messages.map((message) => message.payload), ["of the north"]);
  assert.deepEqual((await south.call("room:history", { room: "quay" })).messages.map((message) => message.payload), ["of the south"]);
  assert.equal(north.of("connection:established")[0].tenantId, "north");
}

export async function history() {
  const ada = await joined("ada", "log");
  const empty = await ada.call("room:history", { room: "log" });
  assert.deepEqual(keysOf(empty), ["messages", "position", "truncated"]);
  assert.deepEqual(empty.messages, []);
  assert.equal(empty.truncated, false);
  for (const n of range(30)) await ada.call("room:send", { room: "log", payload: { n }, persistent: true });
  await until(() => ada.payloads().length >= 30, "her own messages");
  const all = await ada.call("room:history", { room: "log" });
  assert.deepEqual(all.messages.map((message) => message.payload.n), range(30));
  assert.deepEqual(all.messages.map((message) => message.id), ada.of("room:message").map((message) => message.id), "as they were delivered");
  assert.equal(all.truncated, false);
  const since = await ada.call("room:history", { room: "log", since: empty.position });
  assert.deepEqual(since.messages.map((message) => message.payload.n), range(30));
  const none = await ada.call("room:history", { room: "log", since: all.position });
  assert.deepEqual(none.messages, []);
  assert.deepEqual(none.position, all.position);
  const newest = await ada.call("room:history", { room: "log", limit: 5 });
  assert.deepEqual(newest.messages.map((message) => message.payload.n), range(5, 25), "without a position, the newest");
  assert.equal(newest.truncated, true);
  // Pages forward from a position: everything once.
  let position = empty.position;
  const pages = [];
  for (;;) {
    const page = await ada.call("room:history", { room: "log", since: position, limit: 7 });
    pages.push(...page.messages.map((message) => message.payload.n));
    position = page.position;
    if (page.messages.length === 0) break;
    assert.ok(page.messages.length <= 7);
  }
  assert.deepEqual(pages, range(30));
  const bob = await connected("bob");
  const outside = await bob.call("room:history", { room: "log" });
  assert.ok(outside.messages === undefined || outside.messages.length === 0 || Array.isArray(outside.messages));
  const wrong = await ada.call("room:history", { room: "log", since: "not a position" });
  assert.ok(wrong.success === false || wrong.truncated === true, JSON.stringify(wrong));
}

export async function historyCap() {
  const senders = await Promise.all(range(7).map((n) => joined(`user${n}`, "deep")));
  // 1,050 messages into a room that keeps 1,000; seven users, because each may burst only 200.
  await Promise.all(senders.map(async (socket, who) => {
    for (const n of range(150)) assert.equal((await socket.call("room:send", { room: "deep", payload: { who, n }, persistent: true })).success, true);
  }));
  const ada = await joined("ada", "deep");
  const everything = [];
  let page = await ada.call("room:history", { room: "deep", limit: 1000 });
  everything.push(...page.messages);
  assert.ok(everything.length <= 1000, `${everything.length} kept`);
  assert.equal(page.truncated, true);
  for (const who of range(7)) {
    const numbers = everything.filter((message) => message.payload.who === who).map((message) => message.payload.n);
    assert.deepEqual(numbers, range(numbers.length, 150 - numbers.length), "the newest are kept, in order");
  }
}

export async function rateLimit() {
  const burst = 200;
  const perSecond = 100;
  const ada = await joined("ada", "rush");
  const bob = await joined("bob", "rush");
  const start = Date.now();
  let sent = 0;
  let passed = 0;
  // So many at once that they are too many, unless the machine takes seconds for them, in which more are allowed.
  while (passed === sent) {
    assert.ok(Date.now() - start < 60_000, `all of ${sent} passed`);
    const acks = await Promise.all(range(400, sent).map((n) => ada.call("room:send", { room: "rush", payload: n })));
    sent += acks.length;
    passed += acks.filter((ack) => ack.success).length;
  }
  const allowed = burst + perSecond * (Date.now() - start + 1) / 1000;
  assert.ok(passed >= 150 && passed <= allowed, `${passed} of ${sent} passed, ${allowed} are allowed`);
  await until(() => ada.of("system:error").length > 0, "the complaint");
  assert.equal(ada.of("system:error")[0].code, "RATE_LIMIT_EXCEEDED");
  assert.equal((await bob.call("room:send", { room: "rush", payload: "mine is another budget" })).success, true);
  await until(() => bob.payloads().length >= passed + 1, "what passed");
  assert.equal(bob.payloads().length, passed + 1);
}

export async function manyJoinAtOnce() {
  const first = await joined("user0", "crowd");
  const rest = await Promise.all(range(120, 1).map((n) => joined(`user${n}`, "crowd")));
  const known = () => {
    const users = new Set(["user0"]);
    for (const entry of first.log) {
      if (entry.event === "presence:join") users.add(entry.value.user.userId);
      if (entry.event === "presence:update") for (const info of entry.value.presence) users.add(info.userId);
    }
    return users.size;
  };
  await until(() => known() === 121, "all of the crowd");
  assert.equal((await rest[5].call("query:presence", { room: "crowd" })).presence.length, 121);
  await first.call("room:send", { room: "crowd", payload: "all hands" });
  await until(() => rest.every((socket) => socket.payloads().length === 1), "everybody to hear it");
}
