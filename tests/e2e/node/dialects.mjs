// Declared APIs: the cases API, the chat API, and one that a config declares. Shapes as in docs/dialects.md.
import { io } from "socket.io-client";
import { assert, atEnd, client, connected, keysOf, next, refused, relay, settings, token, until } from "./lib.mjs";

const CASE = "6f1c2f0e-5b8e-4c3a-9d7e-0a1b2c3d4e5f";
const OTHER_CASE = "0b1d3c5e-7f90-4a2b-8c4d-5e6f7a8b9c0d";
const onCases = (user, options) => connected(user, { namespace: "/events", ...options });
const onChat = (user, options) => connected(user, { namespace: "/ws/chat", ...options });
const isTime = (text) => assert.ok(Math.abs(Date.now() - Date.parse(text)) < 120_000 && text.endsWith("Z"), text);

/** The next refusal, and the ack of the same event. */
async function refusal(socket, event, payload, name = "error") {
  const told = next(socket, name);
  const ack = await socket.call(event, payload);
  return { ...(await told), ack };
}

async function publish(room, body) {
  const answer = await fetch(`${settings.url}/realtime/rooms/${encodeURIComponent(room)}/messages`, {
    method: "POST",
    headers: { authorization: `Bearer ${settings.apiKey}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  assert.equal(answer.status < 300, true, `${answer.status} ${await answer.clone().text()}`);
  return answer.json();
}

/** The service of an application that was written for the cases API: it knows nothing of this server. */
class CaseService {
  heard = [];

  connect(bearer) {
    this.socket = io(`${settings.url}/events`, {
      auth: { token: bearer },
      reconnection: true,
      reconnectionAttempts: 5,
      reconnectionDelay: 1000,
      reconnectionDelayMax: 5000,
      timeout: 20000,
      transports: ["websocket"],
    });
    for (const event of ["connect", "connected", "error", "connect_error", "disconnect"]) {
      this.socket.on(event, (data) => this.heard.push([event, data]));
    }
    atEnd(() => this.disconnect());
  }

  subscribeToCase(caseId) {
    this.socket?.emit("subscribe:case", { caseId }, (response) => this.heard.push(["subscription", response]));
  }

  onCaseUpdate(callback) {
    this.socket?.on("case:updated", callback);
  }

  disconnect() {
    this.socket?.disconnect();
  }

  of(event) {
    return this.heard.filter(([name]) => name === event).map(([, data]) => data);
  }
}

export async function caseService() {
  const service = new CaseService();
  service.connect(token("ada"));
  // At once, as a component does that is mounted: the client keeps it until it is connected.
  service.subscribeToCase(CASE);
  await until(() => service.of("subscription").length === 1, "the subscription");
  assert.deepEqual(service.of("subscription"), [{ status: "subscribed", caseId: CASE }]);
  const [hello] = service.of("connected");
  assert.deepEqual(keysOf(hello), ["message", "timestamp", "userId"]);
  assert.equal(hello.userId, "ada");
  isTime(hello.timestamp);
  service.subscribeToCase("test-case-123");
  await until(() => service.of("error").length === 1, "an error");
  assert.equal(service.of("error")[0].code, "INVALID_INPUT");
  await until(() => service.of("subscription").length === 2, "its answer");
  assert.equal(service.of("subscription")[1].status, "error");
  service.disconnect();
  await until(() => service.of("disconnect").length === 1, "the end");

  const stranger = new CaseService();
  stranger.connect(token("eve", { expiresIn: -60 }));
  stranger.subscribeToCase(CASE);
  await until(() => stranger.of("disconnect").length === 1, "the stranger to be put out");
  assert.deepEqual(stranger.of("error"), [{ code: "AUTH_FAILED", message: "Token expired" }]);
  assert.deepEqual(stranger.of("subscription"), []);
}

export async function caseUpdates() {
  const service = new CaseService();
  const updates = [];
  service.connect(token("ada"));
  service.subscribeToCase(CASE);
  service.onCaseUpdate((data) => updates.push(data));
  await until(() => service.of("subscription").length === 1, "the subscription");
  const update = { caseId: CASE, status: "closed", by: { userId: "clerk" } };
  await publish(`case:${CASE}`, { namespace: "/events", event: "case:updated", data: update });
  await publish(`case:${OTHER_CASE}`, { namespace: "/events", event: "case:updated", data: { caseId: OTHER_CASE } });
  await publish(`case:${CASE}`, { namespace: "/messaging", event: "case:updated", data: { caseId: "elsewhere" } });
  await publish("user:ada", { namespace: "/events", event: "case:updated", data: { caseId: "own" } });
  await until(() => updates.length === 2, "the updates");
  assert.deepEqual(updates, [update, { caseId: "own" }]);
}

export async function casesEvents() {
  const ada = await onCases("ada");
  const bob = await onCases("bob");
  const seesBob = next(ada, "user_joined");
  assert.deepEqual(await ada.call("join_room", { room: "quay" }), { success: true });
  assert.deepEqual(await seesBob, { socketId: ada.id, userId: "ada", participantCount: 1 });
  const both = Promise.all([next(ada, "user_joined"), next(bob, "user_joined")]);
  assert.deepEqual(await bob.call("join_room", { room: "quay", userId: "ada" }), { success: true });
  for (const joined of await both) assert.deepEqual(joined, { socketId: bob.id, userId: "bob", participantCount: 2 }, "the user is the token's");

  const heard = Promise.all([next(ada, "message"), next(bob, "message")]);
  assert.deepEqual(await bob.call("send_message", { room: "quay", message: { text: "hi", userId: "ada" } }), { success: true });
  const [message, own] = await heard;
  assert.deepEqual(message, own);
  assert.deepEqual(keysOf(message), ["from", "message", "timestamp", "userId"]);
  assert.deepEqual([message.from, message.userId, message.message], [bob.id, "bob", { text: "hi", userId: "ada" }]);
  isTime(message.timestamp);
  for (const payload of ["text", 0, false, [1], { a: null }]) {
    const echo = next(ada, "message");
    bob.emit("send_message", { room: "quay", message: payload });
    assert.deepEqual((await echo).message, payload);
  }

  const status = next(ada, "presence:update");
  assert.deepEqual(await bob.call("presence:status", { status: "busy", currentActivity: "reading", customStatus: "at lunch" }), { success: true });
  const told = (await status).presence.find((info) => info.userId === "bob");
  assert.equal(told.activeConnections, 1);
  assert.deepEqual([told.status, told.currentActivity, told.customStatus], ["busy", "reading", "at lunch"]);

  assert.deepEqual(await ada.call("subscribe:case", { caseId: CASE }), { status: "subscribed", caseId: CASE });
  assert.deepEqual(await ada.call("unsubscribe:case", { caseId: CASE }), { status: "unsubscribed", caseId: CASE });
  const left = next(ada, "presence:leave");
  assert.deepEqual(await bob.call("leave_room", { room: "quay" }), { success: true });
  assert.deepEqual(await left, { room: "quay", userId: "bob" });
  ada.log.length = 0;
  bob.emit("no_such_event", { a: 1 });
  await bob.call("send_message", { room: "quay", message: "from outside" });
  await until(() => ada.of("message").length === 1, "a message from outside of the room");
}

export async function casesNamespaces() {
  const names = ["/events", "/messaging", "/notifications", "/dashboard"];
  const sockets = [];
  for (const namespace of names) sockets.push(await connected("ada", { namespace }));
  for (const socket of sockets) assert.deepEqual(await socket.call("join_room", { room: "quay" }), { success: true });
  await Promise.all(sockets.map((socket, index) => socket.call("send_message", { room: "quay", message: names[index] })));
  await until(() => sockets.every((socket) => socket.of("message").length === 1), "each its own message");
  sockets.forEach((socket, index) => assert.equal(socket.of("message")[0].message, names[index]));
  const elsewhere = await onCases("ada", { tenant: "other" });
  await elsewhere.call("join_room", { room: "quay" });
  await elsewhere.call("send_message", { room: "quay", message: "of another tenant" });
  assert.equal(sockets[0].of("message").length, 1);
}

export async function casesRefusals() {
  const ada = await onCases("ada");
  const invalid = [
    ["subscribe:case", undefined, "caseId is required"],
    ["subscribe:case", {}, "caseId is required"],
    ["subscribe:case", { caseId: "6f1c2f0e-5b8e-1c3a-9d7e-0a1b2c3d4e5f" }, "caseId must be a UUID of version 4"],
    ["subscribe:case", { caseId: CASE, more: 1 }, 'the field "more" is not known'],
    ["subscribe:case", "text", "the payload must be an object"],
    ["join_room", { room: "" }, "room must not be empty"],
    ["join_room", { room: "r".repeat(101) }, "room must have at most 100 characters"],
    ["join_room", { room: 7 }, "room must be a string"],
    ["join_room", { room: "a\nb" }, "the name of the room must not contain control characters"],
    ["send_message", { message: "x" }, "room is required"],
    ["presence:status", { status: "gone" }, "status must be one of online, away, busy, offline"],
  ];
  for (const [event, payload, message] of invalid) {
    const told = await refusal(ada, event, payload);
    assert.deepEqual([told.code, told.message], ["INVALID_INPUT", message], JSON.stringify(payload));
    const expected = event === "subscribe:case" ? { status: "error", error: message } : { success: false, error: message };
    assert.deepEqual(told.ack, expected);
  }
  for (const message of ["", null, undefined, [], {}]) {
    assert.equal((await refusal(ada, "send_message", { room: "quay", message })).code, "INVALID_MESSAGE", JSON.stringify(message));
  }
  const many = Object.fromEntries(Array.from({ length: 100_000 }, (_, key) => [`k${key}`, 1]));
  assert.equal((await refusal(ada, "join_room", many)).code, "INVALID_INPUT");

  const large = await refusal(ada, "send_message", { room: "quay", message: "x".repeat(1_048_576) });
  assert.equal(large.code, "MESSAGE_TOO_LARGE");
  assert.equal(large.message, "message has 1048578 bytes; at most 1048576 are allowed");
  assert.deepEqual(await ada.call("send_message", { room: "quay", message: "x".repeat(1_048_574) }), { success: true });

  for (const room of ["user:bob", "user:ada", "user:"]) {
    assert.equal((await refusal(ada, "join_room", { room })).code, "AUTH_FAILED", "nobody reads along in a user's own room");
    assert.equal((await refusal(ada, "send_message", { room, message: "x" })).code, "AUTH_FAILED");
  }
  const bound = await onCases("bob", { claims: { permissions: ["room:case:*:join"] } });
  assert.deepEqual(await bound.call("subscribe:case", { caseId: CASE }), { status: "subscribed", caseId: CASE });
  assert.equal((await refusal(bound, "join_room", { room: "quay" })).code, "AUTH_FAILED");
  assert.equal((await refusal(bound, "send_message", { room: `case:${CASE}`, message: "x" })).code, "AUTH_FAILED");

  const cleo = await onCases("cleo");
  for (let room = 0; room < 50; room += 1) assert.deepEqual(await cleo.call("join_room", { room: `r${room}` }), { success: true });
  const full = await refusal(cleo, "join_room", { room: "r50" });
  assert.deepEqual([full.code, full.currentRoomCount], ["ROOM_LIMIT_EXCEEDED", 50]);
  assert.deepEqual(full.ack, { success: false, error: "Too many rooms" });
  assert.equal((await refusal(cleo, "subscribe:case", { caseId: CASE })).ack.currentRoomCount, 50);
  assert.deepEqual(await cleo.call("join_room", { room: "r7" }), { success: true }, "it is in that one");
  await cleo.call("leave_room", { room: "r7" });
  assert.deepEqual(await cleo.call("join_room", { room: "r50" }), { success: true });
}

export async function casesLimits() {
  for (let connection = 0; connection < 5; connection += 1) await onCases("dan");
  const sixth = client("dan", { namespace: "/events" });
  const [error] = await Promise.all([next(sixth, "error"), next(sixth, "disconnect")]);
  assert.deepEqual(error, { code: "USER_CONNECTION_LIMIT_EXCEEDED", message: "Too many connections of this user" });
  await onCases("dan", { namespace: "/messaging" });

  const eve = await onCases("eve");
  for (let sent = 0; sent < 100; sent += 1) assert.deepEqual(await eve.call("leave_room", { room: "quay" }), { success: true });
  const { code, retryAfter, ack } = await refusal(eve, "leave_room", { room: "quay" });
  assert.equal(code, "RATE_LIMIT_EXCEEDED");
  assert.ok(Number.isInteger(retryAfter) && retryAfter > 0 && retryAfter <= 60, String(retryAfter));
  assert.deepEqual(ack, { success: false, error: "Rate limit exceeded" });

  await connected("ada", { namespace: "/tiny" });
  const full = await refused("bob", { namespace: "/tiny" });
  assert.equal(full.data.code, "FULL");
  assert.equal(full.message, "Too many connections");
}

export async function casesRate() {
  const ada = await onCases("ada");
  const limited = next(ada, "error");
  const acks = [];
  for (let sent = 0; sent < 40; sent += 1) ada.emit("join_room", { room: "quay" }, (ack) => acks.push(ack));
  const error = await limited;
  assert.equal(error.code, "RATE_LIMIT_EXCEEDED");
  assert.ok(Number.isInteger(error.retryAfter) && error.retryAfter > 0, JSON.stringify(error));
  await until(() => acks.length === 40, "every ack");
  assert.ok(acks.some((ack) => ack.success) && acks.some((ack) => !ack.success));
}

export async function casesConnects() {
  for (const [auth, message] of [[{}, "Authentication token required"], [{ token: "x" }, "Invalid token"]]) {
    const socket = client("eve", { namespace: "/dashboard", auth });
    const [error] = await Promise.all([next(socket, "error"), next(socket, "disconnect")]);
    assert.deepEqual(error, { code: "AUTH_FAILED", message });
    assert.equal(socket.active, false, "the client is not to try again by itself");
  }
  const error = await refused("eve", { namespace: "/ws/chat", auth: {} });
  assert.equal(error.message, "Authentication token required");
  assert.deepEqual(error.data, { code: "AUTH_FAILED", message: "Authentication token required" });
}

export async function casesRecovery() {
  const line = await relay();
  const ada = await onCases("ada", { url: line.url, reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 50 });
  const bob = await onCases("bob");
  await ada.call("join_room", { room: "quay" });
  await until(() => ada.of("connected").length === 1, "the hello");
  line.hold();
  for (const text of ["one", "two"]) await bob.call("send_message", { room: "quay", message: text });
  line.release();
  await until(() => ada.of("message").length === 2, "what was missed");
  assert.equal(ada.recovered, true);
  assert.deepEqual(ada.of("message").map((message) => message.message), ["one", "two"]);
  await bob.call("send_message", { room: "quay", message: "three" });
  await until(() => ada.of("message").length === 3, "what is said afterwards");
  assert.deepEqual(ada.of("message").map((message) => message.message), ["one", "two", "three"]);
}

export async function binaryInDialects() {
  const ada = await onCases("ada");
  const bob = await onCases("bob");
  for (const socket of [ada, bob]) await socket.call("join_room", { room: "quay" });
  const heard = next(ada, "message");
  await bob.call("send_message", { room: "quay", message: { photo: Buffer.from("abc"), alt: "a photo" } });
  const { message } = await heard;
  assert.equal(Buffer.from(message.photo).toString(), "abc");
  assert.equal(message.alt, "a photo");
}

export async function chat() {
  const ada = await onChat("ada");
  const bob = await onChat("bob", { claims: { kind: "agent" } });
  await until(() => bob.of("connected").length === 1, "the hello");
  assert.deepEqual([bob.of("connected")[0].userId, bob.of("connected")[0].kind], ["bob", "agent"]);

  assert.deepEqual(await bob.call("agent:connect"), { success: true, agentId: "bob", agents: 1 });
  const seen = next(bob, "agent:connect");
  const cleo = await onChat("cleo", { claims: { kind: "agent" } });
  assert.equal((await cleo.call("agent:connect", {})).agents, 2);
  assert.equal((await seen).agentId, "cleo");
  assert.equal((await refusal(ada, "agent:connect", {})).code, "FORBIDDEN");

  const conversation = { conversationId: "c1" };
  assert.deepEqual(await ada.call("conversation:join", conversation), { success: true, ...conversation, participants: 1 });
  await until(() => ada.of("presence:update").length === 1, "a snapshot");
  assert.deepEqual(ada.of("presence:update")[0].presence.map((info) => info.userId), ["ada"]);
  const joined = next(ada, "presence:update");
  assert.equal((await bob.call("conversation:join", conversation)).participants, 2);
  const told = await joined;
  assert.deepEqual([told.conversationId, told.change, told.user.userId], ["c1", "joined", "bob"]);

  const arrives = Promise.all([next(ada, "message:new"), next(bob, "message:new"), next(bob, "message:sent")]);
  const ack = await bob.call("message:send", { ...conversation, content: { text: "hello" }, type: "text", metadata: { a: 1 }, nonce: "n1" });
  const [message, own, sent] = await arrives;
  assert.deepEqual(message, own);
  assert.deepEqual(ack, { success: true, messageId: message.id, nonce: "n1" });
  const { id, timestamp, ...rest } = message;
  assert.deepEqual(rest, { ...conversation, from: "bob", fromKind: "agent", username: "bob", type: "text", content: { text: "hello" }, metadata: { a: 1 }, nonce: "n1" });
  assert.ok(id.length > 8 && Math.abs(Date.now() - timestamp) < 120_000);
  assert.deepEqual([sent.id, sent.nonce, sent.conversationId], [id, "n1", "c1"]);

  // The client has not heard the answer and sends again.
  const again = await bob.call("message:send", { ...conversation, content: { text: "hello" }, nonce: "n1" });
  assert.deepEqual(again, { success: true, messageId: id, nonce: "n1" });
  const other = await bob.call("message:send", { ...conversation, content: "next", nonce: "n2" });
  assert.notEqual(other.messageId, id);
  await until(() => ada.of("message:new").length === 2, "the next message");
  assert.deepEqual(ada.of("message:new").map((entry) => entry.nonce), ["n1", "n2"], "delivered once");
  assert.equal(bob.of("message:sent").length, 3, "answered each time");

  const typing = next(ada, "message:typing");
  assert.deepEqual(await bob.call("message:typing", { ...conversation, isTyping: true }), { success: true });
  assert.deepEqual(await typing, { ...conversation, userId: "bob", username: "bob", isTyping: true });
  assert.equal(bob.of("message:typing").length, 0, "only the others");

  const status = next(ada, "presence:update");
  assert.deepEqual(await bob.call("presence:update", { status: "away", metadata: { mood: "tired" } }), { success: true });
  const snapshot = await status;
  assert.equal(snapshot.change, "snapshot");
  assert.deepEqual(snapshot.presence.find((info) => info.userId === "bob").metadata, { mood: "tired" });

  const outside = await refusal(cleo, "message:send", { ...conversation, content: "x", nonce: "n3" }, "message:error");
  assert.deepEqual([outside.code, outside.nonce, outside.conversationId], ["NOT_IN_ROOM", "n3", "c1"]);
  assert.deepEqual(outside.ack, { success: false, code: "NOT_IN_ROOM", error: "Not in room", nonce: "n3" });
  const wrong = await refusal(bob, "message:send", { ...conversation, content: "", nonce: "n4" }, "message:error");
  assert.deepEqual([wrong.code, wrong.nonce], ["INVALID_INPUT", "n4"]);
  assert.equal((await refusal(cleo, "message:typing", conversation)).code, "NOT_IN_ROOM");

  const left = next(ada, "presence:update");
  assert.deepEqual(await bob.call("conversation:leave", conversation), { success: true, ...conversation });
  assert.deepEqual(await left, { ...conversation, change: "left", userId: "bob" });
}

export async function tokenInQuery() {
  const ada = await onChat("ada", { auth: {}, query: { token: token("ada") } });
  await until(() => ada.of("connected").length === 1, "the hello");
  assert.equal(ada.of("connected")[0].userId, "ada");
  const bob = await onChat("bob", { query: { token: token("ada") } });
  await until(() => bob.of("connected").length === 1, "the hello");
  assert.equal(bob.of("connected")[0].userId, "bob", "the packet's token comes first");
  const elsewhere = client("ada", { namespace: "/events", auth: {}, query: { token: token("ada") } });
  assert.equal((await next(elsewhere, "error")).code, "AUTH_FAILED", "other namespaces do not look there");
}

export async function strangers() {
  const stranger = await onChat("nobody", { auth: {} });
  await until(() => stranger.of("connected").length === 1, "the hello");
  const hello = stranger.of("connected")[0];
  assert.equal(hello.kind, "anonymous");
  assert.ok(hello.userId.startsWith("anonymous:"), hello.userId);
  assert.equal((await stranger.call("conversation:join", { conversationId: "c1" })).success, true);
  assert.equal((await refused("eve", { namespace: "/ws/chat", auth: { token: "x" } })).data.code, "AUTH_FAILED", "a wrong token is wrong");
}

export async function declared() {
  const ada = await connected("ada", { namespace: "/game" });
  const bob = await connected("bob", { namespace: "/game" });
  await until(() => ada.of("welcome").length === 1, "the welcome");
  const { at, ...welcome } = ada.of("welcome")[0];
  assert.deepEqual(welcome, { you: "ada", name: "ada" });
  isTime(at);
  assert.deepEqual(await ada.call("sit", { table: "t-1", mood: "wild" }), { success: true, players: 1 });
  await until(() => ada.of("players").length > 0, "the players");
  assert.deepEqual(await bob.call("sit", { table: "t-1" }), { success: true, players: 2 });
  await until(() => bob.of("players").some((entry) => entry.players.length === 2), "both players");
  const players = bob.of("players").find((entry) => entry.players.length === 2);
  assert.equal(players.table, "t-1");
  assert.deepEqual(players.players.find((info) => info.userId === "ada").metadata, { mood: "wild" });

  const moved = next(bob, "moved");
  const ack = await ada.call("move", { table: "t-1", to: { x: 3, y: 4 }, nonce: CASE });
  assert.deepEqual(await moved, { id: ack.id, by: "ada", to: { x: 3, y: 4 }, column: 3, text: "ada moves to 3/4" });
  assert.deepEqual(await ada.call("move", { table: "t-1", to: { x: 3, y: 4 }, nonce: CASE }), ack);
  const wrong = await refusal(ada, "move", { table: "t-1", to: { x: 3, y: 10 }, nonce: CASE }, "move:error");
  assert.deepEqual([wrong.code, wrong.message, wrong.nonce], ["INVALID_INPUT", "y must be at most 9", CASE]);
  assert.deepEqual(wrong.ack, { success: false, error: "y must be at most 9" });

  const waved = next(bob, "waved");
  ada.emit("wave", { table: "t-1" });
  assert.deepEqual(await waved, { by: "ada" });
  assert.equal(ada.of("waved").length, 0);
  assert.equal((await refusal(ada, "wave", { table: "t-2" })).code, "NOT_IN_ROOM");
  assert.equal((await refusal(ada, "sit", { table: "T!" })).message, "table has not the form that is wanted");
  assert.equal((await refusal(ada, "sit", { table: "x".repeat(5_000) })).code, "INVALID_INPUT");
  await ada.call("sit", { table: "t-2" });
  assert.equal((await refusal(ada, "sit", { table: "t-3" })).code, "ROOM_LIMIT_EXCEEDED");
  const agent = await connected("zoe", { namespace: "/game", claims: { kind: "agent" } });
  assert.equal((await refusal(agent, "sit", { table: "t-1" })).code, "FORBIDDEN");

  const gone = next(bob, "gone");
  ada.disconnect();
  assert.deepEqual(await gone, { table: "t-1", player: "ada", left: 1 });
  assert.equal((await refused("bob", { namespace: "/messaging2" })).message, "Invalid namespace");
}
