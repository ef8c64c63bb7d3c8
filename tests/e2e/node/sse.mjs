// A room as server-sent events, tickets, and publishing from a backend.
import { assert, joined, keysOf, next, range, request, server, settings, stream, token, until } from "./lib.mjs";

const bearer = (user, options) => ({ authorization: `Bearer ${token(user, options)}` });
const EVENTS = "/realtime/rooms/quay/events";
const sequence = (found) => found.messages().map((message) => message.payload.n);

async function publish(n, { persistent = false, room = "quay" } = {}) {
  const answer = await request(`/realtime/rooms/${room}/messages`, { method: "POST", headers: { authorization: `Bearer ${settings.apiKey}` }, body: { payload: { n }, persistent } });
  assert.ok(answer.status === 200 || answer.status === 201, `${answer.status} ${answer.text}`);
  return answer.json;
}

export async function sameRoomAsSocketIo() {
  const found = await stream(EVENTS, { headers: bearer("ada") });
  assert.equal(found.status, 200);
  assert.match(found.headers.get("content-type"), /^text\/event-stream/);
  assert.match(found.headers.get("cache-control") ?? "", /no-(cache|store)/);
  assert.equal(found.headers.get("content-encoding"), null);
  const bob = await joined("bob", "quay");
  for (const n of range(10)) await bob.call("room:send", { room: "quay", payload: { n }, persistent: n % 2 === 0 });
  await until(() => found.messages().length >= 10 && bob.payloads().length >= 10, "ten events on both");
  assert.deepEqual(found.messages(), bob.of("room:message"), "the same JSON as over Socket.IO");
  const ids = found.events.map((event) => event.id);
  assert.ok(ids.every((id) => /^\S+-\d+$/.test(id)), ids.join());
  assert.equal(new Set(ids).size, ids.length);
  assert.deepEqual(ids.map((id) => Number(id.split("-").at(-1))), range(10, 1), "offsets are contiguous from 1");
  assert.deepEqual((await bob.call("query:presence", { room: "quay" })).presence.map((info) => info.userId), ["bob"], "a listener is not present");
}

export async function lastEventIdResumes() {
  const first = await stream(EVENTS, { headers: bearer("ada") });
  for (const n of range(5)) await publish(n);
  await until(() => first.messages().length === 5, "five events");
  first.close();
  const last = first.events[2].id;
  for (const n of range(5, 5)) await publish(n, { persistent: n % 2 === 0 });
  const second = await stream(EVENTS, { headers: { ...bearer("ada"), "last-event-id": last } });
  await publish(10);
  await until(() => second.messages().length >= 8, "eight events");
  assert.deepEqual(sequence(second), range(8, 3), "once each, in order, no seam");
  // Another listener, with no id, hears only what comes.
  const fresh = await stream(EVENTS, { headers: bearer("ada") });
  await publish(11);
  await until(() => fresh.messages().length >= 1, "one event");
  assert.deepEqual(sequence(fresh), [11]);
  for (const strange of ["garbage", "-", "99999999999999999999-1", "a-b", "0-0"]) {
    const found = await stream(EVENTS, { headers: { ...bearer("ada"), "last-event-id": strange } });
    assert.equal(found.status, 200, "an id that means nothing is no reason to refuse");
    found.close();
  }
}

export async function resumeUnderTraffic() {
  let stop = false;
  let sent = 0;
  const traffic = (async () => { while (!stop) await publish(sent++); })();
  const seen = [];
  let last = null;
  for (const _ of range(8)) {
    const found = await stream(EVENTS, { headers: { ...bearer("ada"), ...(last ? { "last-event-id": last } : {}) } });
    await until(() => found.events.length >= 6, "six events");
    found.close();
    const taken = found.events.slice(0, found.events.length);
    seen.push(...taken.map((event) => JSON.parse(event.data).payload.n));
    last = taken.at(-1).id;
  }
  stop = true;
  await traffic;
  assert.deepEqual(seen, range(seen.length, seen[0]), "eight streams, one unbroken sequence");
}

export async function resumeAfterARestart() {
  const first = await stream(EVENTS, { headers: bearer("ada") });
  for (const n of range(4)) await publish(n, { persistent: true });
  await until(() => first.messages().length === 4, "four events");
  const last = first.events[1].id;
  await server("term");
  await server("wait");
  await server("start");
  const second = await stream(EVENTS, { headers: { ...bearer("ada"), "last-event-id": last } });
  await publish(4, { persistent: true });
  await until(() => second.messages().length >= 3, "three events");
  assert.deepEqual(sequence(second), [2, 3, 4]);
}

export async function waysToShowAToken() {
  const open = async (headers, query = "") => {
    const found = await stream(EVENTS + query, { headers });
    found.close();
    return found.status;
  };
  assert.equal(await open({}), 401);
  assert.equal(await open(bearer("ada")), 200);
  assert.equal(await open({ cookie: `other=1; tidegate_token=${token("ada")}; more=2` }), 200);
  assert.equal(await open(bearer("ada", { expiresIn: -5 })), 401);
  assert.equal(await open({ authorization: "Bearer garbage" }), 401);
  assert.equal(await open({ cookie: "tidegate_token=garbage" }), 401);
  assert.equal(await open({}, `?ticket=garbage`), 401);
  assert.equal(await open({}, `?token=${token("ada")}`), 401, "a token in a query would end in logs");
}

export async function aTicketOpensOneStreamOnce() {
  const refusal = await request("/realtime/tickets", { method: "POST" });
  assert.equal(refusal.status, 401);
  const answer = await request("/realtime/tickets", { method: "POST", headers: bearer("ada") });
  assert.ok(answer.status === 200 || answer.status === 201, String(answer.status));
  assert.deepEqual(keysOf(answer.json), ["expiresIn", "ticket"]);
  assert.ok(answer.json.expiresIn > 0 && answer.json.expiresIn <= 120);
  const ticket = encodeURIComponent(answer.json.ticket);
  const first = await stream(`${EVENTS}?ticket=${ticket}`);
  assert.equal(first.status, 200);
  const second = await stream(`${EVENTS}?ticket=${ticket}`);
  assert.equal(second.status, 401);
  await publish(1);
  await until(() => first.messages().length === 1, "the event");
  const other = (await request("/realtime/tickets", { method: "POST", headers: bearer("ada") })).json.ticket;
  const both = await Promise.all(range(5).map(() => stream(`${EVENTS}?ticket=${encodeURIComponent(other)}`)));
  assert.deepEqual(both.map((found) => found.status).sort(), [200, 401, 401, 401, 401]);
}

export async function tenantsOfStreamsAreIsolated() {
  const north = await stream(EVENTS, { headers: bearer("ada", { tenant: "north" }) });
  const south = await stream(EVENTS, { headers: bearer("ada", { tenant: "south" }) });
  const talker = await joined("bob", "quay", { tenant: "north" });
  await talker.call("room:send", { room: "quay", payload: { n: 1 } });
  const other = await joined("bob", "quay", { tenant: "south" });
  await other.call("room:send", { room: "quay", payload: { n: 2 } });
  await until(() => north.messages().length > 0 && south.messages().length > 0, "an event each");
  assert.deepEqual(sequence(north), [1]);
  assert.deepEqual(sequence(south), [2]);
}

export async function publishing() {
  const bob = await joined("bob", "quay");
  const heard = next(bob, "room:message");
  const first = await publish(1, { persistent: true });
  assert.ok("position" in first, JSON.stringify(first));
  const message = await heard;
  assert.deepEqual(message.payload, { n: 1 });
  assert.equal(message.room, "quay");
  const second = await publish(2);
  const offset = (answer) => Number(String(answer.position?.offset ?? answer.position).split("-").at(-1));
  assert.equal(offset(second), offset(first) + 1);
  const past = await bob.call("room:history", { room: "quay" });
  assert.deepEqual(past.messages.map((kept) => kept.payload.n), [1, 2]);
  const path = "/realtime/rooms/quay/messages";
  const key = { authorization: `Bearer ${settings.apiKey}` };
  assert.equal((await request(path, { method: "POST", body: { payload: 1 } })).status, 401);
  assert.equal((await request(path, { method: "POST", body: { payload: 1 }, headers: { authorization: "Bearer wrong" } })).status, 401);
  assert.ok([401, 403].includes((await request(path, { method: "POST", body: { payload: 1 }, headers: bearer("ada") })).status), "a user's token is no key");
  for (const body of ["{", "[]", "", "{\"persistent\":true}", "{\"payload\":1,\"persistent\":\"yes\"}"]) {
    assert.equal((await request(path, { method: "POST", body, headers: key })).status, 400, body);
  }
  assert.equal((await request(path, { method: "POST", body: { payload: "x".repeat(2_000_000) }, headers: key })).status, 413);
  assert.equal((await request(path, { headers: key })).status, 405);
  assert.equal((await request(`/realtime/rooms/${encodeURIComponent("x".repeat(1000))}/messages`, { method: "POST", body: { payload: 1 }, headers: key })).status, 400);
  const spaced = encodeURIComponent("harbour / ünï 1");
  const cleo = await joined("cleo", "harbour / ünï 1");
  await publish(7, { room: spaced });
  await until(() => cleo.payloads().length === 1, "a room with a name that needs encoding");
}
