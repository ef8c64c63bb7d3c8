// Health, counters, the proxied paths, and going down politely.
import { PATIENCE_MS, assert, atEnd, connected, joined, metric, next, range, relay, request, server, settings, stream, token, until, within } from "./lib.mjs";
import { WebSocket } from "ws";

export async function healthAndStats() {
  const health = await request("/health");
  assert.equal(health.status, 200);
  assert.equal(health.json.status, "healthy");
  for (const key of ["timestamp", "uptime", "connections", "memory"]) assert.ok(key in health.json, key);
  assert.equal(typeof health.json.connections.total, "number");
  assert.deepEqual((await request("/health/ready")).json, { ready: true });
  assert.deepEqual((await request("/health/live")).json, { alive: true });
  await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  await bob.call("room:join", { room: "pier" });
  await until(async () => (await request("/stats")).json.rooms.totalSubscriptions === 3, "three subscriptions");
  const stats = (await request("/stats")).json;
  assert.equal(stats.rooms.totalRooms, 2);
  assert.equal(stats.rooms.totalSubscriptions, 3);
  assert.equal(stats.rooms.avgSubscriptionsPerRoom, 1.5);
  assert.ok("clustering" in stats && "connections" in stats);
  await until(async () => (await request("/health")).json.connections.total === 2, "two connections");
}

/** What the cases API's monitoring shows, and the rooms that a look at the top should find. */
export async function topRoomsAndMonitoring() {
  const clients = await Promise.all(range(6).map((n) => joined(`u${n}`, "large")));
  for (const socket of clients.slice(0, 2)) await socket.call("room:join", { room: "busy" });
  for (const n of range(40)) await clients[0].call("room:send", { room: "busy", payload: n });
  const top = async () => (await request("/stats")).json.topRooms;
  await until(async () => (await top()).byRate.length > 0, "a busy room");
  const { byMembers, byRate } = await top();
  assert.deepEqual([byMembers[0].room, byMembers[0].connections, byMembers[0].users, byMembers[0].tenant], ["large", 6, 6, "default"]);
  assert.equal(byRate[0].room, "busy");
  assert.ok(byRate[0].messagesPerSecond > 0);
  assert.equal(typeof (await request("/stats")).json.eventLoopLagMs, "number");
  const metrics = (await request("/websocket/metrics")).json;
  assert.equal(metrics.connections.current, 6);
  assert.equal(metrics.rooms.totalRooms, 2);
  assert.ok(metrics.messages.received >= 40 && metrics.messages.sent >= 80, JSON.stringify(metrics.messages));
  assert.deepEqual(metrics.namespaces, { "/": 6 });
  const health = (await request("/websocket/health")).json;
  assert.deepEqual([health.status, health.issues], ["healthy", []]);
  assert.ok(health.timestamp > 0 && health.metrics.connections.current === 6);
}

// What a client sees and what is counted happen on different threads: a count is waited for, not looked at.
async function becomes(name, wanted) {
  let value;
  await until(async () => (value = await metric(name, 'tenant="default"')) === wanted, `${name} to be ${wanted}`)
    .catch((error) => { throw new Error(`${error.message}; it is ${value}`); });
}

const reaches = (name, wanted, ...labels) => until(async () => await metric(name, ...labels) >= wanted, `${name} to reach ${wanted}`);

export async function countersMove() {
  const before = { received: await metric("websocket_messages_received_total"), requests: await metric("tidegate_http_requests_total") };
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  for (const n of range(10)) await ada.call("room:send", { room: "quay", payload: n, persistent: true });
  await until(() => bob.payloads().length === 10, "ten messages");
  for (const _ of range(5)) await request("/api/hello");
  await becomes("websocket_active_connections", 2);
  await becomes("websocket_active_rooms", 1);
  await becomes("websocket_room_subscriptions", 2);
  await becomes("websocket_messages_persisted_total", 10);
  await reaches("websocket_messages_received_total", before.received + 12);
  await reaches("websocket_messages_sent_total", 20, 'event="room:message"');
  await reaches("tidegate_http_requests_total", before.requests + 5);
  ada.disconnect();
  bob.disconnect();
  await becomes("websocket_active_connections", 0);
  await becomes("websocket_active_rooms", 0);
  await becomes("websocket_room_subscriptions", 0);
  const { text } = await request("/metrics");
  assert.ok(text.trimEnd().endsWith("# EOF"));
  for (const secret of [settings.secret, settings.apiKey, token("ada").split(".")[2]]) assert.ok(!text.includes(secret));
}

export async function proxiedRequests() {
  const hello = await request("/api/hello?a=1&b=%2F", { headers: { "x-request-id": "harbour-1" } });
  assert.equal(hello.status, 200);
  assert.equal(hello.json.uri, "/api/hello?a=1&b=%2F", "the target goes through as it came");
  assert.match(hello.json.forwardedFor, /127\.0\.0\.1/);
  assert.equal(hello.json.forwardedProto, "http");
  assert.ok(hello.json.requestId);
  for (const code of [200, 201, 204, 304, 404, 418, 500, 503]) assert.equal((await request(`/api/status/${code}`)).status, code);
  const body = "tide ".repeat(400_000);
  const echoed = await request("/api/echo", { method: "POST", body });
  assert.equal(echoed.text, body);
  const chunks = async function* () { for (const n of range(50)) yield Buffer.from(`chunk ${n};`); };
  const streamed = await fetch(`${settings.url}/api/echo`, { method: "POST", body: chunks(), duplex: "half" });
  assert.equal(await streamed.text(), range(50).map((n) => `chunk ${n};`).join(""));
  assert.equal((await request("/api/nothing")).status, 404);
}

export async function reportRun() {
  const path = "/api/projects/p1/initial-report-status/stream";
  // These two see the run from its beginning. One that is opened while it runs may come late on a slow machine.
  const early = [await stream(path), await stream(path)];
  await until(() => early.every((found) => found.events.length === 1), "the state before the run");
  const started = await request("/api/projects/p1/initial-report", { method: "POST" });
  assert.equal(started.status, 202);
  const during = await stream(path);
  const all = [...early, during];
  const progressOf = (found) => found.events.map((event) => JSON.parse(event.data).progress);
  await until(() => all.every((found) => progressOf(found).at(-1) === 100), "the run to end");
  for (const found of all) {
    const progress = progressOf(found);
    assert.deepEqual(progress, [...progress].sort((a, b) => a - b));
    assert.equal(found.events[0].event, "status");
  }
  for (const found of early) {
    assert.ok(found.events.length >= 5, "streamed, not delivered at the end");
    assert.equal(found.events.at(-1).event, "complete");
  }
  const late = await stream("/api/projects/p1/initial-report-status/stream");
  await until(() => late.events.length > 0, "the present state");
  assert.equal(JSON.parse(late.events[0].data).status, "completed");
}

export async function echoThroughTheProxy() {
  const socket = new WebSocket(`${settings.url.replace("http", "ws")}/echo`);
  atEnd(() => socket.terminate());
  await next(socket, "open");
  const got = [];
  socket.on("message", (data, binary) => got.push([binary, data]));
  const sent = [[false, Buffer.from("hello \u{1F30A}")], [true, Buffer.alloc(0)], [true, Buffer.alloc(125, 1)], [true, Buffer.alloc(126, 2)], [true, Buffer.alloc(70_000, 3)], [false, Buffer.alloc(300_000, "a")], [true, Buffer.alloc(900_000, 4)]];
  for (const [binary, data] of sent) socket.send(data, { binary });
  socket.send("in ", { fin: false });
  socket.send("three ", { fin: false });
  socket.send("parts", { fin: true });
  sent.push([false, Buffer.from("in three parts")]);
  const pong = next(socket, "pong");
  socket.ping("are you there");
  assert.equal(String(await pong), "are you there");
  await until(() => got.length === sent.length, "all echoes");
  got.forEach(([binary, data], index) => {
    assert.equal(binary, sent[index][0]);
    assert.ok(data.equals(sent[index][1]), `echo ${index}: ${data.length} bytes`);
  });
  const closed = next(socket, "close");
  socket.close(4001, "done");
  const code = await closed;
  assert.equal(code, 4001);
}

export async function goingDownPolitely() {
  const line = await relay();
  const ada = await joined("ada", "quay", { url: line.url, reconnection: false });
  const polling = await joined("bob", "quay", { url: line.url, transports: ["polling"], reconnection: false });
  const listener = await stream("/realtime/rooms/quay/events", { headers: { authorization: `Bearer ${token("cleo")}` } });
  // Who is between two polls when the listener closes has no way to hear of it.
  await until(() => polling.of("presence:update").length > 0, "presence:update");
  await line.polling();
  const restarts = Promise.all([next(ada, "system:restart"), next(polling, "system:restart")]);
  const gone = Promise.all([next(ada, "disconnect"), next(polling, "disconnect")]);
  await server("term");
  for (const restart of await restarts) {
    assert.deepEqual(Object.keys(restart).sort(), ["reason", "reconnectIn"]);
    assert.equal(restart.reason, "Server shutting down");
    assert.ok(restart.reconnectIn > 0 && restart.reconnectIn <= 60_000);
  }
  await gone;
  await within(listener.closed, "the stream to end");
  assert.ok(listener.retry > 0, "retry: tells the browser when to come back");
  const { code } = await server("wait");
  assert.equal(code, 0);
}

/**
 * The only request of the scenario is under way once the gateway has a connection to the backend. Before that it may be
 * anywhere, even inside `fetch`, which waits for ever when its connection is gone before it has sent anything.
 */
const underWay = () => until(async () => await metric("tidegate_upstream_connections_open") === 1, "the request to be under way");

export async function aSecondSignalEndsAtOnce() {
  const ada = await connected("ada");
  const held = fetch(`${settings.url}/api/slow?ms=60000`).then((response) => response.text()).catch(() => "cut");
  await ada.call("room:join", { room: "quay" });
  await underWay();
  const noticed = next(ada, "system:restart");
  const start = Date.now();
  await server("term");
  // Two signals at once would be one.
  await noticed;
  await server("term");
  const { code } = await server("wait");
  // On a slow machine the second may come when the deadline of 5 s has ended the server already.
  assert.ok(code === 143 || (code === 0 && Date.now() - start >= 5000), `it ended with ${code}`);
  await within(held, "the held request to end with the server", 2 * PATIENCE_MS);
}

export async function aRequestUnderWayIsFinishedOnTerm() {
  const slow = request("/api/slow?ms=700");
  await joined("ada", "quay");
  await underWay();
  await server("term");
  assert.equal((await slow).status, 200);
  const { code } = await server("wait");
  assert.equal(code, 0);
}
