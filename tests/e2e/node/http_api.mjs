// What backends do over HTTP, as stock clients see it.
import { spawn } from "node:child_process";
import net from "node:net";
import { assert, connected, joined, next, range, refused, relay, request, settings, stream, token, until, within } from "./lib.mjs";

/** Calls the API with the key that may do everything, unless another is given. */
async function api(method, path, body, { key = settings.apiKey, headers = {} } = {}) {
  return request(`/realtime${path}`, { method, body, headers: { authorization: `Bearer ${key}`, ...headers } });
}

async function done(method, path, body, options) {
  const answer = await api(method, path, body, options);
  assert.equal(answer.status, 200, `${method} ${path}: ${answer.status} ${answer.text}`);
  return answer.json;
}

async function refusedWith(status, pattern, method, path, body, options) {
  const answer = await api(method, path, body, options);
  assert.equal(answer.status, status, `${method} ${path}: ${answer.status} ${answer.text}`);
  assert.match(answer.json.error.message, pattern);
  assert.ok(answer.json.error.requestId);
}

const publish = (room, body, options) => done("POST", `/rooms/${encodeURIComponent(room)}/messages`, body, options);

export async function payloadsAndEvents() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  const heard = next(ada, "room:message");
  const sent = await publish("quay", { payload: { n: 1 } });
  const message = await heard;
  assert.equal(message.id, sent.messageId);
  assert.equal(message.from, "dev", "the key's id");
  await publish("quay", { payload: null, from: "billing" });
  await until(() => ada.payloads().length === 2, "the second message");
  assert.deepEqual([ada.of("room:message")[1].from, ada.payloads()[1]], ["billing", null]);
  await publish("quay", { event: "order:paid", data: [1, { two: "\u2028" }] });
  await publish("quay", { event: "order:gone" });
  await until(() => ada.of("order:gone").length === 1, "the event without data");
  assert.deepEqual(ada.of("order:paid"), [[1, { two: "\u2028" }]]);
  assert.equal(typeof ada.log.at(-1).values[0], "string", "only the offset of recovery");
  await publish("quay", { event: "typing", data: 1, volatile: true, except: { user: "ada" } });
  await publish("quay", { event: "typing", data: 2, volatile: true, except: { connection: bob.id } });
  await publish("quay", { event: "end" });
  await until(() => ada.of("end").length === 1 && bob.of("end").length === 1, "the end");
  assert.deepEqual([ada.of("typing"), bob.of("typing")], [[2], [1]]);
  await refusedWith(400, /^except: /, "POST", "/rooms/quay/messages", { payload: 1, except: { user: "ada" } });
  await refusedWith(400, /^event: .*"connect"/, "POST", "/rooms/quay/messages", { event: "connect" });
  await refusedWith(400, /^event: .*room:joined/, "POST", "/rooms/quay/messages", { event: "room:joined", data: 1 });
  await refusedWith(400, /^payload: /, "POST", "/rooms/quay/messages", { event: "x", payload: 1 });
  await refusedWith(400, /^payload: /, "POST", "/rooms/quay/messages", {});
  await refusedWith(400, /^volatile: /, "POST", "/rooms/quay/messages", { payload: 1, volatile: "yes" });
  await refusedWith(400, /^from: /, "POST", "/rooms/quay/messages", { payload: 1, from: "" });
}

export async function broadcasts() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "pier");
  const strange = await joined("ada", "quay", { tenant: "other" });
  const sent = await done("POST", "/broadcast", { rooms: ["quay", "pier", "quay", "empty"], payload: 1, persistent: true });
  assert.deepEqual([sent.failed, sent.rooms.map((room) => room.room)], [0, ["quay", "pier", "empty"]], "each room once");
  await until(() => ada.payloads().length === 1 && bob.payloads().length === 1, "one each");
  assert.deepEqual(await done("POST", "/broadcast", { users: ["bob", "nobody"], event: "note", payload: { a: 1 } }), { success: true, connections: 1 });
  await until(() => bob.of("broadcast").length === 1, "the broadcast");
  assert.deepEqual(bob.of("broadcast"), [{ event: "note", payload: { a: 1 } }]);
  assert.deepEqual(await done("POST", "/broadcast", { all: true, event: "note", data: 7, except: { connection: bob.id } }), { success: true, connections: 1 });
  await until(() => ada.of("note").length === 1, "the note");
  assert.deepEqual([ada.of("broadcast"), bob.of("note"), ada.of("note")], [[], [], [7]]);
  assert.deepEqual(strange.log.filter(({ event }) => ["room:message", "broadcast", "note"].includes(event)), [], "of another tenant");
  await refusedWith(400, /^rooms, users, all: /, "POST", "/broadcast", { payload: 1 });
  await refusedWith(400, /^rooms, users, all: /, "POST", "/broadcast", { all: true, users: ["ada"], payload: 1 });
  await refusedWith(400, /^persistent: /, "POST", "/broadcast", { all: true, payload: 1, persistent: true });
  await refusedWith(400, /^rooms: /, "POST", "/broadcast", { rooms: [], payload: 1 });
  await refusedWith(400, /^rooms: more than 1000/, "POST", "/broadcast", { rooms: range(100_000).map((n) => `r${n}`), payload: 1 });
  await refusedWith(400, /^rooms\[1\]: /, "POST", "/broadcast", { rooms: ["a", ""], payload: 1 });
  const many = await done("POST", "/broadcast", { rooms: range(1_000).map((n) => `many:${n}`), payload: 1 });
  assert.equal(many.rooms.length, 1_000);
  assert.equal(bob.payloads().length, 1);
}

export async function membersOnBehalf() {
  const phone = await connected("ada", { claims: { permissions: ["room:lobby:*"] } });
  const laptop = await connected("ada", { transports: ["polling"] });
  const bob = await joined("bob", "quay");
  const heard = next(bob, "presence:join");
  assert.deepEqual(await done("PUT", "/rooms/quay/members/ada"), { success: true, connections: 2 });
  for (const client of [phone, laptop]) {
    await until(() => client.of("presence:update").length > 0, "a snapshot");
    assert.deepEqual(client.of("room:joined"), [{ room: "quay" }]);
  }
  assert.equal((await heard).user.userId, "ada");
  await publish("quay", { payload: 1 });
  await until(() => [phone, laptop, bob].every((client) => client.payloads().length === 1), "one each");
  const present = await done("GET", "/rooms/quay/presence");
  assert.deepEqual([present.count, present.truncated, present.presence.map((user) => user.userId).sort()], [2, false, ["ada", "bob"]]);
  const gone = next(bob, "presence:leave");
  assert.deepEqual(await done("DELETE", "/rooms/quay/members/ada"), { success: true, connections: 2 });
  assert.deepEqual(await gone, { room: "quay", userId: "ada" });
  await until(() => [phone, laptop].every((client) => client.of("room:left").length === 1), "room:left");
  assert.deepEqual(await done("DELETE", "/rooms/quay/members/ada"), { success: true, connections: 0 });
  await publish("quay", { payload: 2 });
  await until(() => bob.payloads().length === 2, "bob's second");
  assert.deepEqual([phone.payloads(), laptop.payloads()], [[1], [1]]);
  await refusedWith(404, /^user: /, "PUT", "/rooms/quay/members/nobody");
  await refusedWith(404, /^user: /, "PUT", "/rooms/quay/members/ada?tenant=other");
}

export async function disconnects() {
  const options = { reconnection: true, reconnectionDelay: 10, reconnectionDelayMax: 50 };
  const ada = await joined("ada", "quay", options);
  const events = await stream("/realtime/rooms/quay/events", { headers: { authorization: `Bearer ${token("ada")}` } });
  // To come back, with everything.
  let back = next(ada, "connection:established");
  assert.deepEqual(await done("DELETE", "/users/ada/connections?reconnect=true&reason=moving%20house"), { success: true, disconnected: 2 });
  await back;
  assert.equal(ada.recovered, true);
  assert.deepEqual(ada.of("system:disconnect"), [{ reason: "moving house", reconnect: true }]);
  await within(events.closed, "the stream's end");
  assert.deepEqual(events.events.filter(({ event }) => event === "system:disconnect").map(({ data }) => JSON.parse(data)), [{ reason: "moving house", reconnect: true }]);
  // To come back as a stranger.
  back = next(ada, "connection:established");
  await done("DELETE", `/connections/${ada.id}?reconnect=true&recover=false`);
  await back;
  assert.equal(ada.recovered, false);
  // To stay away, over both transports.
  const wire = await relay();
  const bob = await connected("ada", { ...options, url: wire.url, transports: ["polling"] });
  // Who is between two polls does not hear of it.
  await until(() => bob.of("connection:established").length === 1, "all that the server says of itself");
  await wire.polling();
  const reasons = Promise.all([next(ada, "disconnect"), next(bob, "disconnect")]);
  assert.deepEqual(await done("DELETE", "/users/ada/connections?reason=bye"), { success: true, disconnected: 2 });
  assert.deepEqual(await reasons, ["io server disconnect", "io server disconnect"]);
  assert.deepEqual(bob.of("system:disconnect"), [{ reason: "bye", reconnect: false }]);
  assert.equal(ada.active || bob.active, false, "no reconnect is tried");
  assert.deepEqual((await done("GET", "/users/ada/connections")).connections, []);
  await refusedWith(400, /^recover: /, "DELETE", "/users/ada/connections?recover=true");
  await refusedWith(400, /^reconnect: /, "DELETE", "/users/ada/connections?reconnect=1");
  await refusedWith(400, /^reason: /, "DELETE", `/users/ada/connections?reason=${"x".repeat(257)}`);
  await refusedWith(404, /^connection: /, "DELETE", "/connections/0.0.4000000000");
}

async function pages(path, name, limit) {
  const found = [];
  let cursor = null;
  do {
    const page = await done("GET", `${path}?limit=${limit}${cursor === null ? "" : `&cursor=${cursor}`}`);
    assert.ok(page[name].length <= limit);
    found.push(...page[name]);
    cursor = page.cursor;
  } while (cursor !== null);
  return found;
}

export async function listings() {
  const clients = await Promise.all(range(23).map((n) => joined(`user${n}`, `room${n % 7}`)));
  const events = await stream("/realtime/rooms/room0/events", { headers: { authorization: `Bearer ${token("reader")}` } });
  const connections = await pages("/connections", "connections", 5);
  assert.equal(new Set(connections.map(({ id }) => id)).size, 24, "each once");
  assert.equal(connections.length, 24);
  const one = connections.find(({ user }) => user === "user3");
  assert.deepEqual([one.transport, one.tenant, one.address, one.namespaces], ["websocket", "default", "127.0.0.1", [{ namespace: "/", connectionId: clients[3].id, rooms: ["room3"], roomCount: 1 }]]);
  assert.ok(one.bytesIn > 0 && one.bytesOut > 0 && one.messagesIn > 0 && one.messagesOut > 0 && Math.abs(Date.now() - one.since) < 120_000);
  const reader = connections.find(({ user }) => user === "reader");
  assert.deepEqual([reader.transport, reader.namespaces], ["sse", [{ namespace: "/", rooms: ["room0"], roomCount: 1 }]]);
  const rooms = await pages("/rooms", "rooms", 2);
  assert.deepEqual(rooms.map(({ room }) => room).sort(), range(7).map((n) => `room${n}`));
  const first = rooms.find(({ room }) => room === "room0");
  assert.deepEqual([first.users, first.connections], [4, 5], "a listener is connected, and no user of the room");
  assert.equal((await done("GET", "/rooms/room0")).connections, 5);
  assert.deepEqual((await done("GET", "/rooms/nobody%20here")).users, 0);
  const page = await done("GET", "/rooms/room0/presence?limit=2");
  assert.deepEqual([page.presence.length, page.count, page.truncated], [2, 4, true]);
  await refusedWith(400, /^cursor: /, "GET", "/rooms?cursor=x");
  await refusedWith(400, /^cursor: /, "GET", "/connections?cursor=x");
  await refusedWith(400, /^limit: /, "GET", "/connections?limit=0");
  await refusedWith(400, /^lmit: /, "GET", "/rooms?lmit=1");
  events.close();
}

export async function historyPages() {
  const positions = [];
  for (const n of range(25)) positions.push((await publish("quay", { payload: n, persistent: true })).position);
  await publish("quay", { event: "order:paid", data: { n: 25 }, persistent: true });
  let since = positions[2];
  const found = [];
  for (;;) {
    const page = await done("GET", `/rooms/quay/history?limit=10&since=${since}`);
    assert.equal(page.truncated, false);
    if (page.messages.length === 0) break;
    found.push(...page.messages);
    since = page.position;
  }
  assert.deepEqual(found.slice(0, -1).map(({ args: [message] }) => message.payload), range(22, 3));
  assert.deepEqual(found[0].position, positions[3]);
  assert.deepEqual([found.at(-1).event, found.at(-1).args], ["order:paid", [{ n: 25 }]]);
  const newest = await done("GET", "/rooms/quay/history?limit=2");
  assert.deepEqual(newest.messages.map(({ event }) => event), ["room:message", "order:paid"]);
  await refusedWith(400, /^since: /, "GET", "/rooms/quay/history?since=yesterday");
}

export async function sentAgain() {
  const ada = await joined("ada", "quay");
  const headers = { "idempotency-key": "order-17" };
  const answers = await Promise.all(range(40).map(() => api("POST", "/rooms/quay/messages", { payload: 1, persistent: true }, { headers })));
  assert.ok(answers.every(({ status }) => status === 200 || status === 409), answers.map(({ status }) => status).join());
  const good = answers.filter(({ status }) => status === 200);
  assert.equal(new Set(good.map(({ text }) => text)).size, 1, "one answer for all");
  assert.equal(good.filter((answer) => answer.headers.get("idempotency-replayed") === null).length, 1, "done once");
  const batch = { operations: [{ publish: { room: "quay", payload: 2 } }, { publish: { room: "quay", payload: 3 } }] };
  for (const _ of range(3)) await done("POST", "/batch", batch, { headers: { "idempotency-key": "order-18" } });
  await publish("quay", { payload: 4 });
  await until(() => ada.payloads().includes(4), "the last");
  assert.deepEqual(ada.payloads(), [1, 2, 3, 4]);
  await refusedWith(422, /Idempotency-Key/, "POST", "/rooms/quay/messages", { payload: 5 }, { headers });
  await refusedWith(422, /Idempotency-Key/, "POST", "/rooms/pier/messages", { payload: 1, persistent: true }, { headers });
  // What was refused is not remembered.
  const retry = { headers: { "idempotency-key": "order-19" } };
  await refusedWith(404, /^user: /, "PUT", "/rooms/quay/members/bob", undefined, retry);
  await connected("bob");
  assert.equal((await done("PUT", "/rooms/quay/members/bob", undefined, retry)).connections, 1);
}

export async function batches() {
  const ada = await connected("ada");
  const answer = await done("POST", "/batch", { operations: [
    { join: { room: "quay", user: "ada" } },
    { publish: { room: "quay", payload: 1, persistent: true } },
    { join: { room: "quay", user: "nobody" } },
    { leave: { room: "quay", user: "ada" } },
    { publish: { room: "quay", payload: 2 } },
    { disconnectUser: { user: "ada", reason: "done" } },
  ] });
  assert.deepEqual(answer.results.map(({ status }) => status), [200, 200, 404, 200, 200, 200]);
  assert.deepEqual([answer.success, answer.failed, answer.results[2].error.code], [false, 1, "NOT_FOUND"]);
  await until(() => !ada.connected, "the end");
  assert.deepEqual(ada.log.filter(({ event }) => event !== "presence:update").map(({ event }) => event), ["connection:established", "room:joined", "room:message", "room:left", "system:disconnect"]);
  const bob = await joined("bob", "quay");
  await refusedWith(400, /^operations\[1\]\.publish\.colour: /, "POST", "/batch", { operations: [{ publish: { room: "quay", payload: 3 } }, { publish: { room: "quay", colour: 1 } }] });
  await refusedWith(400, /^operations\[0\]/, "POST", "/batch", { operations: [{ dance: {} }] });
  await refusedWith(400, /^operations: .*101/, "POST", "/batch", { operations: range(101).map(() => ({ publish: { room: "quay", payload: 3 } })) });
  await refusedWith(400, /^operations: /, "POST", "/batch", { operations: [] });
  await publish("quay", { payload: 4 });
  await until(() => bob.payloads().length > 0, "a message");
  assert.deepEqual(bob.payloads(), [4], "a malformed batch does nothing at all");
}

export async function revocations() {
  const ada = await connected("ada", { claims: { jti: "t1" } });
  const other = await connected("ada", { claims: { jti: "t2" } });
  const ended = next(ada, "disconnect");
  assert.deepEqual(await done("POST", "/revocations", { tokenId: "t1" }), { success: true });
  assert.equal(await ended, "io server disconnect");
  assert.equal(ada.of("auth:revoked").length, 1);
  assert.match((await refused("ada", { claims: { jti: "t1" } })).message, /token/i);
  assert.equal(other.connected, true);
  const gone = next(other, "disconnect");
  await done("POST", "/revocations", { user: "ada" });
  assert.equal(await gone, "io server disconnect");
  await connected("ada", { tenant: "other" });
  await refusedWith(400, /^tokenId, user: /, "POST", "/revocations", {});
  await refusedWith(400, /^before: /, "POST", "/revocations", { tokenId: "t1", before: 1 });
}

/** Keys of the config that the Rust test writes. */
export async function scopes() {
  const [acme, reader, cases] = ["key-acme-0123456789", "key-reader-0123456789", "key-cases-0123456789"].map((key) => ({ key }));
  const ada = await joined("ada", "case:17", { tenant: "acme" });
  await joined("ada", "case:17", { tenant: "other" });
  await joined("bob", "lobby", { tenant: "acme" });
  // Bound to its tenant.
  assert.equal((await done("GET", "/connections", undefined, acme)).connections.length, 2);
  assert.equal((await done("GET", "/users/ada/connections", undefined, acme)).connections.length, 1);
  await refusedWith(403, /another tenant/, "GET", "/connections?tenant=other", undefined, acme);
  await refusedWith(403, /another tenant/, "POST", "/rooms/case:17/messages", { payload: 1, tenant: "other" }, acme);
  const { connections } = await done("GET", "/connections?tenant=other", undefined, { key: "key-all-0123456789" });
  await refusedWith(404, /^connection: /, "DELETE", `/connections/${connections[0].id}`, undefined, acme);
  assert.equal((await done("DELETE", "/users/ada/connections?reconnect=true", undefined, acme)).disconnected, 1);
  await until(() => !ada.connected, "the end");
  assert.equal((await done("GET", "/connections?tenant=other", undefined, { key: "key-all-0123456789" })).connections.length, 1);
  // Each scope is asked for by name.
  await refusedWith(403, /"publish"/, "POST", "/rooms/case:17/messages", { payload: 1 }, reader);
  await refusedWith(403, /"publish"/, "POST", "/broadcast", { all: true, payload: 1 }, reader);
  await refusedWith(403, /"history"/, "GET", "/rooms/a/history", undefined, cases);
  await refusedWith(403, /"membership"/, "PUT", "/rooms/a/members/b", undefined, reader);
  await refusedWith(403, /"disconnect"/, "DELETE", "/users/a/connections", undefined, reader);
  await refusedWith(403, /"connections"/, "GET", "/connections", undefined, cases);
  await done("GET", "/rooms/case:17/history", undefined, reader);
  const batch = await done("POST", "/batch", { operations: [{ publish: { room: "case:1", payload: 1 } }, { publish: { room: "lobby", payload: 1 } }, { leave: { room: "case:1", user: "a" } }] }, cases);
  assert.deepEqual(batch.results.map(({ status }) => status), [200, 403, 403]);
  // Confined to rooms.
  assert.deepEqual((await done("GET", "/rooms?tenant=acme", undefined, cases)).rooms, []);
  await refusedWith(403, /"lobby"/, "POST", "/rooms/lobby/messages", { payload: 1 }, cases);
  await refusedWith(403, /"lobby"/, "POST", "/broadcast", { rooms: ["case:1", "lobby"], payload: 1 }, cases);
  await refusedWith(403, /concerns all/, "POST", "/broadcast", { all: true, payload: 1 }, cases);
  await done("POST", "/broadcast", { rooms: ["case:1", "case:2"], payload: 1 }, cases);
  // A key without scopes publishes, as it always did.
  await publish("anything", { payload: 1 }, { key: "key-plain-0123456789" });
  await refusedWith(403, /"rooms"/, "GET", "/rooms", undefined, { key: "key-plain-0123456789" });
}

/** Half a request, and then nothing. */
function hanging() {
  const { hostname, port } = new URL(settings.url);
  const socket = net.connect(Number(port), hostname);
  socket.on("error", () => {});
  socket.write(`POST /realtime/rooms/quay/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${settings.apiKey}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"payl`);
  return socket;
}

export async function badRequestsDisturbNobody() {
  const ada = await joined("ada", "quay");
  const slow = range(50).map(hanging);
  const bodies = ["[".repeat(900_000), '{"payload":'.repeat(50_000), "\u0000", "9".repeat(500_000)];
  for (const body of bodies) {
    const { status, json } = await api("POST", "/rooms/quay/messages", body);
    assert.equal(status, 400, `${body.slice(0, 20)}: ${status}`);
    assert.equal(json.error.code, "BAD_REQUEST");
  }
  const huge = await api("POST", "/batch", `{"operations":["${"x".repeat(2_000_000)}"]}`);
  assert.equal(huge.status, 413);
  await refusedWith(401, /Invalid API key/, "GET", "/rooms", undefined, { key: settings.apiKey.slice(0, -1) });
  for (const n of range(100)) await publish("quay", { payload: n });
  await until(() => ada.payloads().length === 100, "a hundred messages");
  assert.deepEqual(ada.payloads(), range(100));
  slow.forEach((socket) => socket.destroy());
}

/** A backend in Python, with nothing but its standard library. */
export async function pythonBackend() {
  const ada = await joined("ada", "quay");
  const python = spawn("python3", ["../python/backend.py"], { env: { ...process.env, TIDEGATE_URL: settings.url, TIDEGATE_API_KEY: settings.apiKey }, stdio: ["ignore", "inherit", "inherit"] });
  const code = await within(new Promise((resolve, reject) => { python.once("exit", resolve); python.once("error", reject); }), "the backend to end");
  assert.equal(code, 0, "the backend's own checks");
  await until(() => !ada.connected, "the backend's last word");
  assert.deepEqual(ada.payloads(), ["from Python", { "grüße": "\u{1F30A}" }, "kept", "again"]);
  assert.deepEqual(ada.of("order:paid"), [{ order: 17 }]);
  assert.deepEqual(ada.of("room:joined").map(({ room }) => room), ["quay", "pier"]);
}
