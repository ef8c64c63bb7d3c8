// Webhooks: a real backend on Node that is asked and told, and clients that feel its answers.
import { createHmac } from "node:crypto";
import { createServer } from "node:http";
import { assert, atEnd, client, connected, joined, next, refused, request, server, settings, stream, token, until } from "./lib.mjs";

const SECRET = "whsec_for_the_tests_only";

/**
 * A backend. `answer(call)` says what it answers: JSON, a status, a promise of one of them, or `null` for never. `calls` has the
 * questions, `told` the events it was told of, `heads` the headers of each call.
 */
async function backend(answer = () => ({})) {
  const state = { answer, calls: [], told: [], heads: [], unanswered: 0 };
  const http = createServer(async (request, response) => {
    const body = Buffer.concat(await request.toArray());
    const { t, v1 } = Object.fromEntries(request.headers["tidegate-signature"].split(",").map((part) => part.split("=")));
    assert.equal(v1, createHmac("sha256", SECRET).update(`${t}.${body}`).digest("hex"), "the signature");
    assert.ok(Math.abs(Date.now() / 1000 - t) < 60, "the time of the signature");
    assert.match(request.headers["user-agent"], /^Tidegate\/\d/);
    assert.equal(request.headers["content-type"], "application/json");
    const call = JSON.parse(body);
    state.heads.push(request.headers);
    if (call.events) state.told.push(...call.events);
    else state.calls.push(call);
    const said = await state.answer(call, state);
    if (said === null) {
      state.unanswered += 1;
      request.socket.once("close", () => { state.unanswered -= 1; });
    } else if (typeof said === "number") response.writeHead(said).end();
    else response.end(typeof said === "string" ? said : JSON.stringify(said));
  });
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  atEnd(() => { http.closeAllConnections(); http.close(); });
  state.url = `http://127.0.0.1:${http.address().port}/hooks?from=tidegate`;
  state.of = (event) => state.calls.filter((call) => call.event === event);
  return state;
}

/** Starts the server with a webhook. */
async function gateway(app, keys) {
  const lines = Object.entries({ name: "app", url: app.url, secret: SECRET, ...keys });
  const config = `[[realtime.webhook]]\n${lines.map(([key, value]) => `${key} = ${JSON.stringify(value)}`).join("\n")}\n`;
  const { admin } = await server(`start ${config}`);
  settings.admin = admin;
}

async function metric(name, ...wanted) {
  const { text } = await request("/metrics", { url: settings.admin });
  return text.split("\n").filter((line) => line.startsWith(name) && wanted.every((label) => line.includes(label)))
    .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

const said = (socket, event) => new Promise((resolve) => socket.once(event, (...values) => resolve(values)));

export async function connectAsks() {
  const app = await backend(({ user }) => (user === "mallory"
    ? { allow: false, message: "Banned", code: "BANNED" }
    : { permissions: ["room:case:7:*"], rooms: ["case:7"], presence: { desk: 4 } }));
  await gateway(app, { events: ["connect"] });
  const ada = client("ada");
  const [room, presence] = await Promise.all([next(ada, "room:joined"), next(ada, "presence:update")]);
  assert.deepEqual(room, { room: "case:7" });
  assert.deepEqual(presence.presence.map(({ userId, metadata }) => ({ userId, metadata })), [{ userId: "ada", metadata: { desk: 4 } }]);
  assert.equal((await ada.call("room:send", { room: "case:7", payload: 1 })).success, true, "it is in the room");
  assert.equal((await ada.call("room:join", { room: "case:8" })).error, "Unauthorized", "the grant closes the other rooms");
  const [asked] = app.of("connect");
  assert.deepEqual({ ...asked, time: 0 }, {
    event: "connect", time: 0, tenant: "default", namespace: "/", user: "ada", username: "ada",
    address: "127.0.0.1", transport: "websocket", roles: [], permissions: [],
  });
  assert.ok(Math.abs(asked.time - Date.now()) < 60_000);
  const error = await refused("mallory");
  assert.equal(error.message, "Banned");
  assert.deepEqual(error.data, { code: "BANNED" });
  const [first, second] = app.heads.map((head) => head["tidegate-webhook-id"]);
  assert.notEqual(first, second, "each call has an id of its own");
}

export async function joinAsks() {
  const app = await backend(({ room }) => (room === "staff" ? { allow: false, message: "Staff only" } : ""));
  await gateway(app, { events: ["join"] });
  const ada = await connected("ada");
  assert.deepEqual(await ada.call("room:join", { room: "staff" }), { success: false, error: "Staff only" });
  assert.deepEqual(ada.of("system:error").map(({ code, message }) => ({ code, message })), [{ code: "ROOM_JOIN_FAILED", message: "Staff only" }]);
  assert.equal((await ada.call("room:send", { room: "staff", payload: 1 })).success, false);
  assert.equal((await ada.call("room:join", { room: "quay" })).success, true);
  assert.deepEqual(app.calls.map(({ event, room, socket, user }) => ({ event, room, socket, user })), [
    { event: "join", room: "staff", socket: ada.id, user: "ada" },
    { event: "join", room: "quay", socket: ada.id, user: "ada" },
  ]);
  // An event stream must not be a way around.
  const authorization = `Bearer ${token("bob")}`;
  const closed = await stream("/realtime/rooms/staff/events", { headers: { authorization } });
  assert.equal(closed.status, 403, closed.body);
  assert.match(closed.body, /Staff only/);
  assert.equal((await stream("/realtime/rooms/quay/events", { headers: { authorization } })).status, 200);
}

export async function publishAsks() {
  const app = await backend(({ data }) => {
    if (data.payload === "rude") return { allow: false, message: "Mind your language" };
    if (data.payload === "shout") return { payload: { text: "SHOUT" } };
    if (data.payload === "whole") return { data: { all: "other" } };
    return {};
  });
  await gateway(app, { events: ["publish"] });
  const bob = await joined("bob", "quay");
  const ada = await joined("ada", "quay");
  assert.deepEqual(await ada.call("room:send", { room: "quay", payload: "rude" }), { success: false, error: "Mind your language" });
  for (const payload of ["shout", "whole", "plain"]) assert.equal((await ada.call("room:send", { room: "quay", payload })).success, true);
  await until(() => bob.of("room:message").length === 3, "three messages");
  const [shouted, whole, plain] = bob.of("room:message");
  assert.deepEqual(shouted.payload, { text: "SHOUT" });
  assert.equal(shouted.from, "ada");
  assert.deepEqual(whole, { all: "other" });
  assert.equal(plain.payload, "plain");
  const { room, name, data, persistent, volatile } = app.of("publish")[1];
  assert.deepEqual({ room, name, persistent, volatile }, { room: "quay", name: "room:message", persistent: false, volatile: false });
  assert.deepEqual({ from: data.from, payload: data.payload }, { from: "ada", payload: "shout" });
  // Who is not in the room is refused before the backend is asked.
  const asked = app.calls.length;
  assert.equal((await ada.call("room:send", { room: "pier", payload: 1 })).error, "Not in room");
  assert.equal(app.calls.length, asked);
  // Binary comes to the backend as base64, and to the room as it was.
  await ada.call("room:send", { room: "quay", payload: { bytes: Buffer.from("salt") } });
  assert.deepEqual(app.calls.at(-1).data.payload, { bytes: { base64: Buffer.from("salt").toString("base64") } });
  await until(() => bob.of("room:message").length === 4, "the binary message");
  assert.equal(Buffer.from(bob.of("room:message")[3].payload.bytes).toString(), "salt");
}

export async function eventsAreAnswered() {
  const answers = {
    "order:create": ({ args: [order] }) => ({
      join: ["order:17"],
      leave: ["cart"],
      emit: [
        { room: "kitchen", event: "order:new", data: { id: 17, dish: order.dish }, persistent: true },
        { user: "bob", event: "order:assigned", data: [17] },
        { event: "order:created", data: { id: 17 } },
      ],
      ack: { ok: true, id: 17 },
    }),
    "case:quiet": () => "",
    "case:to": ({ args: [socket] }) => ({ emit: [{ socket, event: "poke" }], ack: null }),
    "case:null": () => ({ ack: null }),
    "case:list": ({ args }) => ({ ack: args.length }),
  };
  const app = await backend((call) => answers[call.name](call));
  await gateway(app, { client_events: ["order:create", "case:*"] });
  const cook = await joined("cook", "kitchen");
  const bobs = await Promise.all([connected("bob"), connected("bob")]);
  const ada = await joined("ada", "cart");
  const order = new Promise((resolve) => cook.once("order:new", resolve));
  const assigned = bobs.map((bob) => said(bob, "order:assigned"));
  const created = said(ada, "order:created");
  assert.deepEqual(await ada.call("order:create", { dish: "herring" }), { ok: true, id: 17 });
  assert.deepEqual(await order, { id: 17, dish: "herring" });
  for (const values of await Promise.all(assigned)) assert.deepEqual(values, [[17]]);
  assert.deepEqual(await created, [{ id: 17 }]);
  assert.deepEqual((await ada.call("query:rooms", {})).rooms, ["order:17"]);
  const { socket, name, args, ack, user } = app.of("client_event")[0];
  assert.deepEqual({ socket, name, args, ack, user }, { socket: ada.id, name: "order:create", args: [{ dish: "herring" }], ack: true, user: "ada" });
  assert.equal(await ada.call("case:quiet", {}), undefined, "an acknowledgement without a value");
  assert.equal(await ada.call("case:null"), null);
  assert.equal(await ada.timeout(20_000).emitWithAck("case:list", 1, "two", [3]), 3);
  const poked = said(cook, "poke");
  await ada.call("case:to", cook.id);
  await poked;
  const history = await cook.call("room:history", { room: "kitchen" });
  assert.deepEqual(history.messages, [{ id: 17, dish: "herring" }], "the persistent one is kept");
  ada.emit("nobody:listens", 1);
  assert.equal(await ada.call("case:list"), 0);
  assert.equal(app.of("client_event").length, 6, "only what is named is passed on");
}

export async function eventsKeepTheirOrder() {
  const waiting = [];
  const app = await backend(({ args: [n] }) => new Promise((resolve) => waiting.push({ n, go: () => resolve({ ack: n }) })));
  await gateway(app, { client_events: ["step"], timeout: "30s" });
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  const acks = [];
  ada.emit("step", 1, (n) => acks.push(n));
  ada.emit("step", 2, (n) => acks.push(n));
  ada.emit("room:send", { room: "quay", payload: "after" }, () => acks.push("after"));
  await until(() => waiting.length === 1, "the first question");
  // Others are not affected.
  assert.equal((await bob.call("room:send", { room: "quay", payload: "meanwhile" })).success, true);
  const own = bob.emitWithAck("step", 7);
  await until(() => waiting.length === 2, "a question of another client");
  waiting[1].go();
  assert.equal(await own, 7);
  assert.deepEqual(acks, []);
  assert.deepEqual(waiting.map(({ n }) => n), [1, 7], "the second waits for the first");
  waiting[0].go();
  await until(() => waiting.length === 3, "the second question");
  assert.deepEqual(acks, [1]);
  waiting[2].go();
  await until(() => acks.length === 3, "all acknowledgements");
  assert.deepEqual(acks, [1, 2, "after"]);
  assert.deepEqual(bob.payloads(), ["meanwhile", "after"]);
}

export async function silenceIsRefused() {
  const app = await backend(() => null);
  await gateway(app, { events: ["join"], client_events: ["ask"], timeout: "300ms", retries: 0, breaker_calls: 1000 });
  const ada = await connected("ada");
  assert.deepEqual(await ada.call("room:join", { room: "quay" }), { success: false, error: "The backend does not answer" });
  assert.deepEqual(await ada.call("ask"), { success: false, error: "The backend does not answer" });
  assert.deepEqual(ada.of("system:error").map(({ code }) => code), ["ROOM_JOIN_FAILED", "EVENT_FAILED"]);
  assert.equal(await metric("tidegate_webhook_calls_total", 'webhook="app"', 'result="timeout"'), 2);
  const many = await Promise.all(Array.from({ length: 30 }, (_, index) => connected(`user${index}`)));
  // Some go while their question is open, others wait.
  for (const [index, socket] of many.entries()) {
    if (index % 2) socket.emit("ask");
    else void socket.call("ask").catch(() => {});
  }
  await until(() => app.calls.length === 32, "all questions");
  for (const [index, socket] of many.entries()) if (index % 2) socket.disconnect();
  await until(() => many.filter((_, index) => index % 2 === 0).every((socket) => socket.of("system:error").length === 1), "the refusals");
  await until(() => app.unanswered === 0, "no connection to the backend to be left");
  assert.equal(await metric("tidegate_webhook_calls_total", 'result="timeout"'), 32);
  await until(async () => (await request("/stats", { url: settings.admin })).json.connections === 16, "those that went to be gone");
}

export async function failureMayBeAllowed() {
  const app = await backend(() => 500);
  await gateway(app, { events: ["connect", "join", "publish"], on_failure: "allow", retries: 0, breaker_calls: 1000 });
  const ada = await joined("ada", "quay");
  assert.equal((await ada.call("room:send", { room: "quay", payload: 1 })).success, true);
  assert.deepEqual(app.calls.map(({ event }) => event), ["connect", "join", "publish"]);
  app.answer = () => '{"alow": false}';
  assert.equal((await ada.call("room:join", { room: "pier" })).success, true, "an answer that is none");
}

export async function callsAreMadeAgain() {
  let failures = 2;
  const app = await backend(() => (failures-- > 0 ? 503 : { ack: "at last" }));
  await gateway(app, { client_events: ["ask"], timeout: "20s", retries: 2 });
  const ada = await connected("ada");
  assert.equal(await ada.call("ask"), "at last");
  assert.equal(app.calls.length, 3);
  assert.equal(new Set(app.heads.map((head) => head["tidegate-webhook-id"])).size, 1, "one call, one id");
  assert.equal(await metric("tidegate_webhook_calls_total", 'result="failed"'), 2);
  // What is refused on purpose is not asked again.
  app.answer = () => 404;
  assert.equal((await ada.call("ask")).success, false);
  assert.equal(app.calls.length, 4);
}

export async function breakerOpensAndCloses() {
  const app = await backend(() => 500);
  await gateway(app, { client_events: ["ask"], retries: 0, breaker_calls: 3, breaker_pause: "500ms" });
  const ada = await connected("ada");
  for (const _ of [1, 2, 3]) assert.equal((await ada.call("ask")).success, false);
  assert.equal(await metric("tidegate_webhook_breaker_state"), 2);
  app.answer = () => ({ ack: "well" });
  assert.equal((await ada.call("ask")).success, false);
  assert.equal(app.calls.length, 3, "no call is made");
  await until(async () => (await ada.call("ask")) === "well", "the breaker to let one through");
  assert.equal(await metric("tidegate_webhook_breaker_state"), 0);
  assert.ok(await metric("tidegate_webhook_calls_total", 'result="breaker_open"') >= 1);
}

export async function eventsAreTold() {
  const app = await backend();
  await gateway(app, { events: ["connect", "join", "publish", "leave", "disconnect"], notify: ["connect", "join", "publish"] });
  const ada = await joined("ada", "quay");
  await ada.call("room:join", { room: "pier" });
  await ada.call("room:send", { room: "quay", payload: { n: 1 } });
  await ada.call("room:leave", { room: "pier" });
  const id = ada.id;
  ada.disconnect();
  await until(() => app.told.length === 6, "all events");
  assert.deepEqual(app.calls, [], "nothing is asked");
  assert.deepEqual(app.told.map(({ event, room }) => (room ? `${event} ${room}` : event)), ["connect", "join quay", "join pier", "publish quay", "leave pier", "disconnect"]);
  for (const event of app.told) assert.equal(event.socket, id);
  assert.equal(app.told[0].recovered, false);
  assert.deepEqual(app.told[3].data.payload, { n: 1 });
  const { reason, recoverable, rooms } = app.told[5];
  assert.deepEqual({ reason, recoverable, rooms }, { reason: "client_closed", recoverable: false, rooms: ["quay"] });
  await until(async () => (await metric("tidegate_webhook_queue_events")) === 0, "an empty queue");
}

export async function whatIsToldIsToldAgain() {
  let failures = 1;
  const app = await backend(() => (failures-- > 0 ? 503 : {}));
  await gateway(app, { events: ["join"], notify: ["join"], retries: 1 });
  const ada = await joined("ada", "first");
  await until(() => app.told.length === 2, "the second try");
  assert.equal(new Set(app.heads.map((head) => head["tidegate-webhook-id"])).size, 1);
  failures = 2;
  await ada.call("room:join", { room: "lost" });
  await until(async () => (await metric("tidegate_webhook_dropped_total", 'reason="not_taken"')) === 1, "the drop");
  await ada.call("room:join", { room: "last" });
  await until(() => app.told.at(-1)?.room === "last", "what comes after");
}

export async function fullQueueLosesItsOldest() {
  let open;
  const gate = new Promise((resolve) => { open = resolve; });
  const app = await backend(() => gate.then(() => ({})));
  await gateway(app, { events: ["publish"], notify: ["publish"], queue: 5, timeout: "60s" });
  const ada = await joined("ada", "quay");
  const send = (n) => ada.call("room:send", { room: "quay", payload: n });
  await send(0);
  await until(() => app.told.length === 1, "the first, which is being told");
  for (let n = 1; n <= 12; n += 1) assert.equal((await send(n)).success, true, "nobody waits for the backend");
  assert.equal(await metric("tidegate_webhook_queue_events"), 5);
  assert.equal(await metric("tidegate_webhook_dropped_total", 'reason="queue_full"'), 7);
  open();
  await until(() => app.told.length === 6, "the newest");
  assert.deepEqual(app.told.map(({ data }) => data.payload), [0, 8, 9, 10, 11, 12]);
}

export async function endOfTheProcessIsTold() {
  const app = await backend();
  await gateway(app, { events: ["disconnect"] });
  const all = await Promise.all(["ada", "bob", "eve"].map((user) => joined(user, "quay")));
  assert.equal(all.length, 3);
  await server("term");
  await server("wait");
  assert.deepEqual(app.told.map(({ event, user }) => `${event} ${user}`).sort(), ["disconnect ada", "disconnect bob", "disconnect eve"]);
  for (const { reason, recoverable } of app.told) assert.deepEqual({ reason, recoverable }, { reason: "server_shutdown", recoverable: true });
}

/** Others are concerned with one tenant each, and with a namespace that is not served. */
export async function filtersHold() {
  const app = await backend(() => ({ allow: false, message: "asked" }));
  await gateway(app, { events: ["join"], tenants: ["acme"] });
  const other = await joined("ada", "quay");
  assert.ok(other.connected);
  const acme = await connected("ada", { tenant: "acme" });
  assert.equal((await acme.call("room:join", { room: "quay" })).error, "asked");
  assert.deepEqual(app.calls.map(({ tenant }) => tenant), ["acme"]);
}

/** The receivers of docs/webhooks.md: `settings` come from the test. */
export async function documentedReceiver() {
  const receiver = process.env.RECEIVER;
  await gateway({ url: receiver }, { events: ["join"] });
  const ada = await joined("ada", "quay");
  assert.equal((await ada.call("room:join", { room: "staff" })).error, "Staff only");
  const forged = await request("/", { url: receiver, method: "POST", body: { event: "join", room: "quay" }, headers: { "tidegate-signature": "t=1,v1=00" } });
  assert.equal(forged.status, 403);
  const old = Math.floor(Date.now() / 1000) - 3600;
  const body = JSON.stringify({ event: "join", room: "quay" });
  const signature = `t=${old},v1=${createHmac("sha256", SECRET).update(`${old}.${body}`).digest("hex")}`;
  const replayed = await request("/", { url: receiver, method: "POST", body, headers: { "tidegate-signature": signature } });
  assert.equal(replayed.status, 403, "an old call");
}
