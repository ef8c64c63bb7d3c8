// Several rooms on one event stream, and who is in them.
import { assert, connected, joined, range, request, server, settings, stream, token, until } from "./lib.mjs";

const bearer = (user, options) => ({ authorization: `Bearer ${token(user, options)}` });
const path = (rooms, query = "") => `/realtime/events?${rooms.map((room) => `room=${encodeURIComponent(room)}`).join("&")}${query}`;
const open = (rooms, { id, query, user = "ada", ...claims } = {}) =>
  stream(path(rooms, query), { headers: { "accept-encoding": "gzip, deflate, br", ...bearer(user, claims), ...(id ? { "last-event-id": id } : {}) } });
const sequence = (found) => found.messages().map((message) => message.payload.n);
const gaps = (found) => found.events.filter((event) => event.event === "gap").map((event) => JSON.parse(event.data));
const seqOf = (id) => Number(id.split(".").at(-1));

async function publish(room, n, { persistent = n % 2 === 0, ...more } = {}) {
  const answer = await request(`/realtime/rooms/${room}/messages`, { method: "POST", headers: { authorization: `Bearer ${settings.apiKey}` }, body: { payload: { n }, persistent, ...more } });
  assert.equal(answer.status, 200, answer.text);
}

export async function oneSequence() {
  const found = await open(["quay", "pier"]);
  assert.equal(found.status, 200);
  assert.match(found.headers.get("content-type"), /^text\/event-stream/);
  assert.equal(found.headers.get("cache-control"), "no-cache, no-transform");
  assert.equal(found.headers.get("x-accel-buffering"), "no");
  assert.equal(found.headers.get("content-encoding"), null);
  const bob = await joined("bob", "quay");
  assert.equal((await bob.call("room:join", { room: "pier" })).success, true);
  assert.equal((await bob.call("room:join", { room: "shed" })).success, true);
  for (const n of range(12)) {
    const ack = await bob.call("room:send", { room: ["quay", "pier", "shed"][n % 3], payload: { n }, persistent: n % 2 === 0 });
    assert.equal(ack.success, true, JSON.stringify(ack));
  }
  await until(() => found.messages().length >= 8 && bob.payloads().length >= 12, "the messages");
  assert.deepEqual(found.messages(), bob.of("room:message").filter(({ room }) => room !== "shed"), "the same JSON as over Socket.IO");
  // The ids are those of stock clients.
  const offsets = bob.log.filter(({ event, value }) => event === "room:message" && value.room !== "shed").map(({ values }) => values[1]);
  assert.deepEqual(found.events.map(({ id }) => id), offsets);
  assert.ok(found.events.every(({ event }) => event === "message"), "nothing but messages");
  assert.deepEqual((await bob.call("query:presence", { room: "quay" })).presence.map(({ userId }) => userId), ["bob"], "a listener is not present");
}

export async function resumes() {
  // A reader that has heard nothing yet resumes, too.
  const idle = await open(["quay", "pier"]);
  await until(() => idle.id && idle.retry, "the first id");
  assert.match(idle.id, /^[0-9a-f]+\.\d+$/);
  idle.close();
  for (const n of range(6)) await publish(["quay", "pier", "shed"][n % 3], n);
  const first = await open(["quay", "pier"], { id: idle.id });
  await publish("pier", 6);
  await until(() => first.messages().length >= 5, "five events");
  assert.deepEqual(sequence(first), [0, 1, 3, 4, 6]);
  first.close();
  const second = await open(["quay", "pier"], { query: `&since=${first.events[1].id}` });
  await until(() => second.messages().length >= 3, "three events");
  assert.deepEqual(sequence(second), [3, 4, 6]);
  assert.equal(seqOf(second.id), seqOf(first.id), "nothing was published since");
  assert.deepEqual([...gaps(first), ...gaps(second)], []);
}

export async function resumesUnderTraffic() {
  let stop = false;
  const rooms = ["quay", "pier", "shed"];
  const talkers = await Promise.all(range(6).map((n) => joined(`talker${n}`, rooms[n % 3])));
  const sent = talkers.map(() => 0);
  const traffic = Promise.all(talkers.map(async (talker, who) => {
    while (!stop) {
      // Without waiting for each: the more is on its way while a stream begins, the better.
      const some = range(10, sent[who]).map((n) => talker.call("room:send", { room: rooms[who % 3], payload: { who, n }, persistent: n % 4 === 0 }));
      sent[who] += some.length;
      for (const ack of await Promise.all(some)) if (!ack.success) await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }));
  const seen = [];
  let id;
  for (const _ of range(40)) {
    const found = await open(rooms, { id });
    await until(() => found.messages().length >= 6, "six events");
    found.close();
    assert.deepEqual(gaps(found), []);
    const taken = [...found.events];
    seen.push(...taken.map((event) => seqOf(event.id)));
    id = taken.at(-1).id;
  }
  stop = true;
  await traffic;
  // All that is sent here is in these rooms, so that the numbers leave none out.
  assert.deepEqual(seen, range(seen.length, seen[0]), "forty streams, three rooms, one unbroken sequence");
}

export async function resumesAfterRestarts() {
  const rooms = ["quay", "pier"];
  let found = await open(rooms);
  for (const n of range(4)) await publish(rooms[n % 2], n, { persistent: true });
  await until(() => found.messages().length === 4, "four events");
  let id = found.events[1].id;
  let next = 2;
  for (const how of ["term", "kill"]) {
    await server(how);
    await server("wait");
    await server("start");
    found = await open(rooms, { id });
    const last = next === 2 ? 4 : 5;
    await publish(rooms[last % 2], last, { persistent: true });
    await until(() => found.messages().length >= last - next + 1, `the events after ${how}`);
    assert.deepEqual(sequence(found), range(last - next + 1, next));
    assert.deepEqual(gaps(found), [], how);
    id = found.events[0].id;
    next += 1;
  }
}

export async function aLossIsTold() {
  for (const n of range(4)) await publish(["quay", "pier"][n % 2], n);
  const head = async () => {
    const found = await open(["quay"]);
    await until(() => found.id, "the first id");
    found.close();
    return found.id;
  };
  const now = await head();
  const epoch = now.split(".")[0];
  for (const strange of ["garbage", `${epoch}-1`, `${epoch}.${seqOf(now) + 1}`, "1.0"]) {
    const found = await open(["quay", "pier"], { id: strange });
    await until(() => found.id, "where the stream stands");
    assert.deepEqual(gaps(found), [{ rooms: ["quay", "pier"], offset: now }], strange);
    assert.ok(found.events.every((event) => event.id === undefined), "a loss is no place to resume from");
    assert.deepEqual(sequence(found), []);
    found.close();
  }
  // A room whose history this token does not open is lost to it; the other one is not.
  const permissions = ["room:quay:join,history", "room:pier:join"];
  const half = await open(["quay", "pier"], { id: `${epoch}.0`, permissions });
  await publish("pier", 4);
  await until(() => half.messages().length >= 3, "three events");
  assert.deepEqual(gaps(half), [{ rooms: ["pier"], offset: now }]);
  assert.deepEqual(sequence(half), [0, 2, 4]);
  const one = await stream("/realtime/rooms/pier/events", { headers: { ...bearer("ada", { permissions }), "last-event-id": `${epoch}-0` } });
  await until(() => one.id, "where the stream stands");
  assert.deepEqual([sequence(one), gaps(one).length], [[], 1], "the same for one room");
}

export async function presenceIfAskedFor() {
  await joined("cleo", "quay");
  const several = await open(["quay", "pier"], { query: "&presence=true" });
  const single = await stream("/realtime/rooms/quay/events?presence=true", { headers: bearer("ada") });
  const without = await Promise.all([open(["quay", "pier"]), open(["quay"], { query: "&presence=false" }), stream("/realtime/rooms/quay/events", { headers: bearer("ada") })]);
  const told = (found) => found.events.filter(({ event }) => event.startsWith("presence:")).map(({ event, data, id }) => ({ event, id, ...JSON.parse(data) }));
  const users = ({ presence }) => presence.map(({ userId }) => userId);
  await until(() => told(several).length === 2 && told(single).length === 1, "a snapshot per room");
  assert.deepEqual(told(several).map((of) => [of.event, of.room, users(of)]), [["presence:update", "quay", ["cleo"]], ["presence:update", "pier", []]]);
  assert.deepEqual(told(single).map((of) => [of.event, of.room, users(of)]), [["presence:update", "quay", ["cleo"]]]);
  const bob = await joined("bob", "quay");
  await until(() => told(several).length === 3 && told(single).length === 2, "a join");
  await bob.call("room:leave", { room: "quay" });
  await until(() => told(several).length === 4 && told(single).length === 3, "a leave");
  for (const found of [several, single]) {
    const [join, leave] = told(found).slice(-2);
    assert.deepEqual([join.event, join.room, join.user.userId], ["presence:join", "quay", "bob"]);
    assert.deepEqual([leave.event, leave.room, leave.userId], ["presence:leave", "quay", "bob"]);
    assert.ok(told(found).every(({ id }) => id === undefined), "nothing to resume from");
  }
  await publish("quay", 1);
  await until(() => [several, single, ...without].every((found) => found.messages().length === 1), "a message on all of them");
  assert.ok(without.every((found) => found.events.length === 1), "presence is not told unasked");
}

export async function presenceOfADialect() {
  const bob = await connected("bob", { namespace: "/ws/chat" });
  const conversation = { conversationId: "c1" };
  await bob.call("conversation:join", conversation);
  // The rooms of agents tell nobody who is there.
  const found = await open(["conversation:c1", "agents"], { query: "&presence=true&namespace=/ws/chat" });
  const cleo = await connected("cleo", { namespace: "/ws/chat" });
  await cleo.call("conversation:join", conversation);
  await cleo.call("message:send", { ...conversation, content: { text: "hello" }, type: "text" });
  cleo.disconnect();
  const told = () => found.events.map(({ event, data }) => ({ event, ...JSON.parse(data) }));
  await until(() => told().length >= 4, "who is there, who comes, what is said, who goes");
  assert.deepEqual(told().map(({ event, change, from }) => [event, change ?? from]), [
    ["presence:update", "snapshot"], ["presence:update", "joined"], ["message", "cleo"], ["presence:update", "left"],
  ], "in the words of the dialect");
  const { id } = found.events[2];
  const again = await open(["conversation:c1", "agents"], { id: `${id.split(".")[0]}.${seqOf(id) - 1}`, query: "&namespace=/ws/chat" });
  await until(() => again.events.length === 1, "what was said");
  assert.equal(again.events[0].data, found.events[2].data);
}

export async function whoMayOpenThem() {
  const refused = async (status, query, named, headers = bearer("ada")) => {
    const found = await stream(`/realtime/events${query}`, { headers });
    assert.equal(found.status, status, `${query}: ${found.body}`);
    assert.ok(JSON.parse(found.body).error.message.includes(named), found.body);
  };
  await refused(400, "", "room");
  await refused(400, "?presence=true", "room");
  await refused(400, `?room=quay&room=${"x".repeat(1000)}`, "xxx");
  await refused(400, `?${range(65).map((n) => `room=r${n}`).join("&")}`, "r64");
  await refused(400, "?room=quay&presence=maybe", "presence");
  await refused(400, "?room=quay&rooms=pier", "rooms");
  await refused(404, "?room=quay&namespace=/none", "namespace");
  await refused(401, "?room=quay", "", {});
  await refused(403, "?room=quay&room=pier", "pier", bearer("ada", { permissions: ["room:quay:*"] }));
  const { ticket } = (await request("/realtime/tickets", { method: "POST", headers: bearer("ada") })).json;
  const query = `&ticket=${encodeURIComponent(ticket)}&namespace=/`;
  assert.equal((await stream(path(["quay", "pier"], query))).status, 200);
  assert.equal((await stream(path(["quay", "pier"], query))).status, 401);
  assert.equal((await open(range(64).map((n) => `r${n}`))).status, 200);
}

export async function tenantsNeverMeet() {
  const north = await open(["quay", "pier"], { tenant: "north", query: "&presence=true" });
  const south = await open(["quay", "pier"], { tenant: "south", query: "&presence=true" });
  await until(() => north.id && south.id, "the first ids");
  const talkers = await Promise.all(["north", "south"].map((tenant) => joined(tenant, "quay", { tenant })));
  for (const n of range(2)) await talkers[n].call("room:send", { room: "quay", payload: { n }, persistent: true });
  await until(() => north.messages().length > 0 && south.messages().length > 0, "an event each");
  // An id of one tenant's counter means nothing to the other's.
  const crossed = await open(["quay", "pier"], { tenant: "south", id: north.id });
  await publish("quay", 2, { tenant: "south" });
  await until(() => sequence(south).length === 2 && sequence(crossed).includes(2), "another event");
  assert.deepEqual([sequence(north), sequence(south)], [[0], [1, 2]]);
  assert.ok(!sequence(crossed).includes(0));
  for (const [found, name] of [[north, "south"], [south, "north"]]) assert.ok(!found.events.some(({ data }) => data.includes(`"${name}"`)), "who is there is nobody else's to know");
}

export async function aStreamThatEndsLeavesItsRooms() {
  const connections = async (room) => {
    const answer = await request(`/realtime/rooms/${room}`, { headers: { authorization: `Bearer ${settings.apiKey}` } });
    assert.equal(answer.status, 200, answer.text);
    return answer.json.connections;
  };
  const streams = [await open(["quay", "pier"]), await stream("/realtime/rooms/quay/events", { headers: bearer("ada") })];
  assert.deepEqual([await connections("quay"), await connections("pier")], [2, 1]);
  streams.forEach((found) => found.close());
  await until(async () => (await connections("quay")) + (await connections("pier")) === 0, "the rooms to be empty");
}
