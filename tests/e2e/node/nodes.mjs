// Three nodes and a Redis as one server: what a client sees does not depend on the node that it is on.
import { assert, atEnd, connected, joined, next, range, refused, relay, request, server, settings, token, until } from "./lib.mjs";

const urls = process.env.TIDEGATE_URLS?.split(" ") ?? [];
const patient = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200, randomizationFactor: 0 };
const numbers = (socket) => socket.payloads().map((payload) => payload.n);

async function send(socket, room, from, count, persistent = false) {
  for (const n of range(count, from)) {
    const ack = await socket.call("room:send", { room, payload: { n }, persistent });
    assert.equal(ack.success, true, JSON.stringify(ack));
  }
}

export async function oneOrder() {
  const clients = await Promise.all(range(9).map((n) => joined(`user${n}`, "quay", { url: urls[n % 3] })));
  await Promise.all(clients.map(async (socket, who) => {
    for (const n of range(40)) {
      const ack = await socket.call("room:send", { room: "quay", payload: { who, n }, persistent: n % 2 === 0 });
      assert.equal(ack.success, true, JSON.stringify(ack));
    }
  }));
  for (const socket of clients) await until(() => socket.payloads().length >= 360, "all messages");
  const orders = clients.map((socket) => JSON.stringify(socket.payloads()));
  for (const order of orders) assert.equal(order, orders[0]);
  for (const who of range(9)) {
    assert.deepEqual(clients[0].payloads().filter((payload) => payload.who === who).map((payload) => payload.n), range(40));
  }
}

export async function recoversElsewhere() {
  const line = await relay(urls[0]);
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  await bob.call("room:join", { room: "pier" });
  const ada = await joined("ada", "quay", { url: urls[1] });
  await ada.call("room:join", { room: "pier" });
  await send(ada, "quay", 0, 3);
  await until(() => bob.payloads().length === 3, "the first three");
  const id = bob.id;
  for (const round of range(6)) {
    const gone = next(bob, "disconnect");
    line.hold();
    await gone;
    const before = 3 + round * 10;
    await send(ada, round % 2 ? "pier" : "quay", before, 7, round % 3 === 0);
    await send(ada, "pier", before + 7, 3);
    const back = next(bob, "connect");
    line.release(urls[(round + 1) % 3]);
    await back;
    assert.equal(bob.recovered, true, `round ${round}`);
    assert.equal(bob.id, id);
    await until(() => bob.payloads().length >= before + 10, "what was missed");
    assert.deepEqual(numbers(bob), range(before + 10), "all, once, in order");
  }
  assert.deepEqual((await bob.call("query:rooms", {})).rooms.sort(), ["pier", "quay"]);
}

async function nodeEnds(how) {
  const line = await relay(urls[2]);
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay", { url: urls[1] });
  await until(async () => (await ada.call("query:presence", { room: "quay" })).presence.length === 2, "both to be there");
  await send(ada, "quay", 0, 5);
  await until(() => bob.payloads().length === 5, "the first five");
  const gone = next(bob, "disconnect");
  line.release(urls[0]);
  await server(`${how} 2`);
  await gone;
  await send(ada, "quay", 5, 5);
  await until(() => bob.connected, "bob to be back");
  assert.equal(bob.recovered, true);
  await until(() => bob.payloads().length >= 10, "what was missed");
  assert.deepEqual(numbers(bob), range(10), "all, once, in order");
  // Those who only lived there are gone once the node is found dead; bob is not one of them.
  await until(async () => {
    const { presence } = await ada.call("query:presence", { room: "quay" });
    return JSON.stringify(presence.map((of) => of.userId).sort()) === '["ada","bob"]';
  }, "ada and bob, and nobody else");
}

export async function killedNode() {
  const ghost = await joined("ghost", "quay", { url: urls[2] });
  const watcher = await joined("watcher", "other", { url: urls[1] });
  await ghost.call("room:join", { room: "other" });
  await until(() => watcher.of("presence:join").length === 1, "the ghost to come");
  ghost.io.opts.reconnection = false;
  await nodeEnds("kill");
  await until(() => watcher.of("presence:leave").length === 1, "the ghost to go");
  assert.deepEqual(watcher.of("presence:leave").map((left) => left.userId), ["ghost"]);
}

export const stoppedNode = () => nodeEnds("term");

export async function supersedes() {
  const line = await relay(urls[0]);
  const bob = await joined("bob", "quay", { url: line.url, ...patient });
  const ada = await joined("ada", "quay", { url: urls[1] });
  await send(ada, "quay", 0, 2);
  await until(() => bob.payloads().length === 2, "the first two");
  const id = bob.id;
  const gone = next(bob, "disconnect");
  // The first node does not learn that its end of the connection is dead.
  line.strand();
  line.release(urls[2]);
  await gone;
  await until(() => bob.connected, "bob to be back");
  assert.equal(bob.recovered, true);
  assert.equal(bob.id, id);
  await send(ada, "quay", 2, 2);
  await until(() => bob.payloads().length >= 4, "live again");
  assert.deepEqual(numbers(bob), range(4));
  await until(async () => {
    const { presence } = await ada.call("query:presence", { room: "quay" });
    return presence.find((of) => of.userId === "bob")?.activeConnections !== 2;
  }, "the old connection to end");
}

async function events(url, path, headers = {}) {
  const aborter = new AbortController();
  atEnd(() => aborter.abort());
  const answer = await fetch(`${url}${path}`, { headers: { authorization: `Bearer ${token("reader")}`, ...headers }, signal: aborter.signal });
  assert.equal(answer.status, 200);
  const reader = answer.body.getReader();
  let text = "";
  return {
    async until(part) {
      while (!text.includes(part)) {
        const { value, done } = await reader.read();
        if (done) throw new Error(`the stream ended before ${part}: ${text}`);
        text += Buffer.from(value).toString();
      }
      return text;
    },
    end: () => aborter.abort(),
  };
}

export async function readElsewhere() {
  const ada = await joined("ada", "quay", { url: urls[0] });
  // The numbers of rooms that begin later begin above 1.
  await ada.call("room:join", { room: "dock" });
  await send(ada, "dock", 0, 4);
  await ada.call("room:join", { room: "pier" });
  await send(ada, "pier", 0, 2);
  const late = await connected("late", { url: urls[2] });
  const since = await late.call("room:history", { room: "pier" });
  assert.deepEqual([since.messages.map((message) => message.payload.n), since.truncated], [range(2), false]);
  assert.equal((await late.call("room:history", { room: "pier", limit: 1 })).truncated, true);
  await send(ada, "quay", 0, 3, true);
  const bob = await connected("bob", { url: urls[1] });
  const page = await bob.call("room:history", { room: "quay" });
  assert.deepEqual(page.messages.map((message) => message.payload.n), range(3));
  await until(async () => {
    const { presence } = await bob.call("query:presence", { room: "quay" });
    return presence.length === 1 && presence[0].userId === "ada";
  }, "ada to be seen");
  const back = await bob.call("room:join", { room: "quay", since: page.position });
  assert.equal(back.recovered, true, JSON.stringify(back));
  for (const path of ["/realtime/rooms/quay/events", "/realtime/events?room=quay"]) {
    const from = bob.payloads().length + 3;
    const first = await events(urls[1], path);
    await send(ada, "quay", from, 1);
    const text = await first.until(`"n":${from}`);
    first.end();
    const id = text.split("\n").filter((line) => line.startsWith("id: ")).at(-1).slice(4);
    await send(ada, "quay", from + 1, 1);
    const second = await events(urls[2], path, { "last-event-id": id });
    await send(ada, "quay", from + 2, 1);
    const rest = await second.until(`"n":${from + 2}`);
    assert.equal(rest.includes(`"n":${from + 1}`), true, rest);
    assert.equal(rest.includes(`"n":${from}}`) || rest.includes("event: gap"), false, rest);
    second.end();
    await until(() => bob.payloads().length === from, "bob's own");
  }
}

export async function redisGone() {
  const [ada, bob] = await Promise.all([joined("ada", "quay", { url: urls[0] }), joined("bob", "quay", { url: urls[0] })]);
  const far = await joined("far", "quay", { url: urls[1] });
  await server("redis-kill");
  await until(async () => !(await ada.call("room:send", { room: "quay", payload: 1, persistent: true })).success, "a refusal");
  assert.equal(ada.of("system:error").at(-1).code, "MESSAGE_SEND_FAILED");
  const started = Date.now();
  assert.equal((await ada.call("room:send", { room: "quay", payload: 1 })).success, false);
  assert.ok(Date.now() - started < 2_000, "refused at once");
  assert.equal((await ada.call("room:send", { room: "quay", payload: { n: -1 }, volatile: true })).success, true);
  await until(() => numbers(bob).includes(-1), "the volatile message");
  const late = await joined("late", "quay", { url: urls[0] });
  await server("redis-start");
  await until(async () => (await ada.call("room:send", { room: "quay", payload: { n: 6 } })).success, "Redis to be back");
  // Its memory is lost, and whoever was in the room is told. What comes after that comes to all.
  for (const socket of [ada, bob, far]) await until(() => socket.of("room:gap").length > 0, "the loss to be told");
  await send(ada, "quay", 7, 1);
  for (const socket of [bob, far, late]) await until(() => numbers(socket).includes(7), "the first message after the loss");
  // Sessions are there again, by and by.
  const line = await relay(urls[0]);
  const dora = await joined("dora", "quay", { url: line.url, ...patient });
  await send(ada, "quay", 8, 1);
  await until(() => numbers(dora).includes(8), "dora's first");
  const gone = next(dora, "disconnect");
  line.hold();
  await gone;
  await send(ada, "quay", 9, 1);
  const back = next(dora, "connect");
  line.release(urls[1]);
  await back;
  assert.equal(dora.recovered, true);
  await until(() => numbers(dora).includes(9), "what dora missed");
}

export async function redisStandsStill() {
  const ada = await joined("ada", "quay", { url: urls[0] });
  const bob = await joined("bob", "quay", { url: urls[1] });
  const acknowledged = [];
  let sending = true;
  let n = 0;
  const traffic = (async () => {
    while (sending) {
      const mine = n++;
      const ack = await ada.call("room:send", { room: "quay", payload: { n: mine }, clientMessageId: `m${mine}` });
      if (ack.success) acknowledged.push(mine);
      else n = mine;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  })();
  await until(() => acknowledged.length > 10, "traffic");
  await server("redis-pause");
  await until(() => ada.of("system:error").length > 0, "a refusal");
  await server("redis-go");
  const before = acknowledged.length;
  await until(() => acknowledged.length > before + 10, "traffic again");
  sending = false;
  await traffic;
  await until(() => numbers(bob).includes(acknowledged.at(-1)), "the last one");
  assert.deepEqual(numbers(bob).filter((value) => acknowledged.includes(value)), acknowledged, "all that was acknowledged, once, in order");
}

const CASE = "6f1c2f0e-5b8e-4c3a-9d7e-0a1b2c3d4e5f";

export async function dialects() {
  const [one, two] = await Promise.all([
    connected("one", { namespace: "/events", url: urls[0] }),
    connected("two", { namespace: "/events", url: urls[1] }),
  ]);
  for (const socket of [one, two]) {
    const ack = await socket.call("subscribe:case", { caseId: CASE });
    assert.equal(ack.success ?? ack.subscribed ?? true, true, JSON.stringify(ack));
  }
  const seen = next(two, "case:updated");
  const answer = await fetch(`${urls[2]}/realtime/rooms/${encodeURIComponent(`case:${CASE}`)}/messages`, {
    method: "POST",
    headers: { authorization: `Bearer ${settings.apiKey}`, "content-type": "application/json" },
    body: JSON.stringify({ namespace: "/events", event: "case:updated", data: { status: "OPEN" } }),
  });
  assert.equal(answer.status, 200, await answer.text());
  assert.equal((await seen).status, "OPEN");
}

export async function chat() {
  const [ada, bob] = await Promise.all([
    connected("ada", { namespace: "/ws/chat", url: urls[0] }),
    connected("bob", { namespace: "/ws/chat", url: urls[1] }),
  ]);
  const conversation = { conversationId: "c1" };
  assert.equal((await ada.call("conversation:join", conversation)).success, true);
  await until(() => ada.of("presence:update").length === 1, "a snapshot");
  const told = next(ada, "presence:update");
  assert.equal((await bob.call("conversation:join", conversation)).success, true);
  assert.deepEqual([(await told).change, (await told).user?.userId], ["joined", "bob"]);
  const heard = next(bob, "message:new");
  const ack = await ada.call("message:send", { ...conversation, content: "hello", nonce: "x" });
  assert.equal(ack.success, true, JSON.stringify(ack));
  assert.equal((await heard).content, "hello");
  assert.equal((await heard).id, ack.messageId);
  const typing = next(ada, "message:typing");
  await bob.call("message:typing", { ...conversation, isTyping: true });
  assert.equal((await typing).userId, "bob");
}

/** A backend's request of a node. */
async function backend(n, method, path, body) {
  const answer = await request(`/realtime${path}`, { method, body, headers: { authorization: `Bearer ${settings.apiKey}` }, url: urls[n] });
  assert.equal(answer.status, 200, `${method} ${path}: ${answer.text}`);
  return answer.json;
}

const named = (list, name) => list.map((entry) => entry[name]).sort();

export async function httpApi() {
  const [ada, bob, eve] = await Promise.all(["ada", "bob", "eve"].map((user, n) => joined(user, "quay", { url: urls[n] })));
  await bob.call("room:join", { room: "pier" });
  for (const n of range(3)) {
    const sent = await backend(n, "POST", "/rooms/quay/messages", { event: "tide", data: { n } });
    assert.equal(sent.success, true, JSON.stringify(sent));
  }
  for (const socket of [ada, bob, eve]) {
    await until(() => socket.of("tide").length === 3, "what each node was given");
    assert.deepEqual(named(socket.of("tide"), "n"), range(3));
  }
  const whole = (answer) => assert.deepEqual([answer.partial, answer.missing], [undefined, undefined], JSON.stringify(answer));
  const admins = await Promise.all(range(3).map(async (n) => (await server(`admin ${n}`)).admin));
  const stats = async (n) => (await request("/stats?scope=cluster", { url: admins[n] })).json;
  for (const n of range(3)) {
    const connections = await backend(n, "GET", "/connections");
    assert.deepEqual(named(connections.connections, "user"), ["ada", "bob", "eve"]);
    const rooms = await backend(n, "GET", "/rooms");
    assert.deepEqual(rooms.rooms.map(({ room, users, connections }) => [room, users, connections]).sort(), [["pier", 1, 1], ["quay", 3, 3]]);
    const quay = await backend(n, "GET", "/rooms/quay");
    assert.deepEqual([quay.users, quay.connections], [3, 3]);
    const present = await backend(n, "GET", "/rooms/quay/presence");
    assert.deepEqual(named(present.presence, "userId"), ["ada", "bob", "eve"]);
    const history = await backend(n, "GET", "/rooms/quay/history");
    assert.deepEqual(named(history.messages.map((message) => message.args[0]), "n"), range(3));
    const all = await stats(n);
    assert.equal(all.connections, 3, JSON.stringify(all));
    assert.deepEqual(all.nodes.map(({ name, connections }) => [name, connections]), [["node-0", 1], ["node-1", 1], ["node-2", 1]]);
    for (const answer of [connections, rooms, quay, present, history, all]) whole(answer);
  }
  const put = next(eve, "room:joined");
  assert.equal((await backend(0, "PUT", "/rooms/dock/members/eve")).connections, 1);
  assert.equal((await put).room, "dock");
  const due = next(bob, "due");
  assert.equal((await backend(2, "POST", "/broadcast", { users: ["bob"], event: "due", data: 7 })).connections, 1);
  assert.equal(await due, 7);
  const gone = next(bob, "disconnect");
  const ended = await backend(0, "DELETE", "/users/bob/connections?reason=over");
  assert.equal(ended.disconnected, 1);
  whole(ended);
  await gone;
  assert.deepEqual(named((await backend(2, "GET", "/connections")).connections, "user"), ["ada", "eve"]);
  // One that does not answer is named, and keeps nobody waiting.
  await server("kill 2");
  for (const path of ["/connections", "/rooms", "/rooms/quay", "/users/ada/connections"]) {
    const answer = await backend(0, "GET", path);
    assert.deepEqual([answer.partial, answer.missing], [true, ["node-2"]], `${path}: ${JSON.stringify(answer)}`);
  }
  assert.deepEqual(named((await backend(1, "GET", "/connections")).connections, "user"), ["ada"]);
  const rest = await stats(1);
  assert.deepEqual([rest.connections, rest.partial, rest.missing], [1, true, ["node-2"]], JSON.stringify(rest));
  const late = await backend(1, "DELETE", "/users/ada/connections");
  assert.deepEqual([late.disconnected, late.partial, late.missing], [1, true, ["node-2"]]);
}

export async function connectionsPerUser() {
  const first = await connected("ada", { url: urls[0] });
  await connected("ada", { url: urls[1] });
  for (const url of urls) {
    const error = await refused("ada", { url });
    assert.equal(error.data.code, "USER_CONNECTION_LIMIT_EXCEEDED");
  }
  await connected("bob", { url: urls[2] });
  const letIn = (url) => until(async () => (await connected("ada", { url }).catch(() => null)) !== null, "a place that has become free");
  first.disconnect();
  await letIn(urls[2]);
  assert.equal((await refused("ada", { url: urls[0] })).data.code, "USER_CONNECTION_LIMIT_EXCEEDED");
  // A node that has died holds nobody's place.
  await server("kill 1");
  await letIn(urls[0]);
  assert.equal((await refused("ada", { url: urls[2] })).data.code, "USER_CONNECTION_LIMIT_EXCEEDED");
}
