// Presence in the running server: who is away, who has vanished, and what a crowd costs. And sending twice.
import { assert, connected, joined, next, range, relay, token, until } from "./lib.mjs";

const lastOf = (socket, user) => socket.log
  .flatMap(({ event, value }) => (event === "presence:update" ? value.presence : event === "presence:join" ? [value.user] : []))
  .filter((info) => info.userId === user).at(-1);

/** With `away_after` of one second. */
export async function awayAndBack() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  await until(() => lastOf(ada, "bob"), "bob to be there");
  let pings = 0;
  bob.io.engine.on("ping", () => { pings += 1; });
  await until(() => lastOf(ada, "bob").status === "away", "bob to be away");
  await until(() => pings > 1, "pings, whose answers are no activity");
  assert.equal((await ada.call("query:presence", { room: "quay" })).presence.find((info) => info.userId === "bob").status, "away");
  const away = ada.log.length;
  await bob.call("query:rooms");
  await until(() => ada.log.slice(away).some(({ event, value }) => event === "presence:update" && value.presence.some((info) => info.userId === "bob" && info.status === "online")), "bob to be back");
  // What is set by hand holds, idle or not.
  await bob.call("presence:status", { status: "busy", customStatus: "at the helm", currentActivity: "steering" });
  await until(() => lastOf(ada, "bob").status === "busy", "busy");
  const { customStatus, currentActivity } = lastOf(ada, "bob");
  assert.deepEqual({ customStatus, currentActivity }, { customStatus: "at the helm", currentActivity: "steering" });
  await until(() => pings > 4, "bob to be idle again");
  assert.equal((await ada.call("query:presence", { room: "quay" })).presence.find((info) => info.userId === "bob").status, "busy");
  // A second tab is told with the next entry, and keeps its user there.
  const tab = await joined("bob", "quay");
  assert.equal((await ada.call("query:presence", { room: "quay" })).presence.find((info) => info.userId === "bob").activeConnections, 2);
  tab.disconnect();
  await until(async () => (await ada.call("query:presence", { room: "quay" })).presence.find((info) => info.userId === "bob").activeConnections === undefined, "one connection, which goes without saying");
}

/** With a ping each second, and one second for its answer: nothing else tells the server that the client has gone. */
export async function vanished() {
  const ada = await joined("ada", "quay");
  const line = await relay();
  const bob = await joined("bob", "quay", { url: line.url });
  await until(() => lastOf(ada, "bob"), "bob to be there");
  const heard = next(ada, "presence:leave");
  const start = Date.now();
  line.strand();
  assert.deepEqual(await heard, { room: "quay", userId: "bob" });
  console.log(`gone after ${Date.now() - start} ms`);
  assert.ok(bob.disconnected);
  assert.deepEqual((await ada.call("query:presence", { room: "quay" })).presence.map((info) => info.userId), ["ada"]);
}

export async function joinStorm() {
  const count = 1_000;
  const sockets = [];
  for (const some of range(10)) sockets.push(...await Promise.all(range(count / 10, some * count / 10).map((n) => connected(`user${n}`))));
  const start = Date.now();
  const acks = await Promise.all(sockets.map((socket) => socket.call("room:join", { room: "crowd" })));
  const seconds = (Date.now() - start) / 1000;
  assert.ok(acks.every((ack) => ack.success));
  const isPresence = (entry) => entry.event.startsWith("presence:");
  await until(() => sockets.every((socket) => socket.log.some((entry) => isPresence(entry) && entry.value.count === count)), "everybody to know of all");
  const received = sockets.reduce((sum, socket) => sum + socket.log.filter(isPresence).length, 0);
  console.log(`${received} presence events for ${count} joins within ${seconds} s`);
  // Each joiner has a snapshot. Up to 256 members joins are told one by one, at most; then by a snapshot for all, and one
  // for 1,000 members is followed by a pause of more than a second. Naively it would be half a million.
  const bound = count + 256 * 257 / 2 + 1_000 * Math.ceil(seconds + 2);
  assert.ok(received <= bound, `${received} presence events, at most ${bound} are expected`);
  const leaves = sockets[0].log.length;
  const leaving = Date.now();
  sockets.slice(1).forEach((socket) => socket.disconnect());
  await until(async () => (await sockets[0].call("query:presence", { room: "crowd" })).presence.length === 1, "all others to be gone");
  const told = sockets[0].log.slice(leaves).filter(isPresence).length;
  const most = 256 + 10 * Math.ceil((Date.now() - leaving) / 1000 + 1);
  assert.ok(told <= most, `${told} events for ${count - 1} leaves, at most ${most} are expected`);
}

export async function sentTwice() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  const send = (socket, body) => socket.call("room:send", { room: "quay", ...body });
  const first = await send(ada, { payload: 1, clientMessageId: "one" });
  assert.deepEqual(Object.keys(first).sort(), ["messageId", "success"]);
  assert.deepEqual(await send(ada, { payload: "another", clientMessageId: "one" }), { ...first, duplicate: true });
  assert.equal((await send(bob, { payload: 2, clientMessageId: "one" })).duplicate, undefined, "bob's ids are his own");
  // Sent again while the first is on its way into the store: the same outcome for all.
  const acks = await Promise.all(range(20).map(() => send(ada, { payload: 3, clientMessageId: "two", persistent: true })));
  assert.equal(new Set(acks.map((ack) => ack.messageId)).size, 1);
  assert.equal(acks.filter((ack) => ack.duplicate).length, 19);
  assert.ok(acks.every((ack) => ack.success));
  await send(ada, { payload: "end" });
  await until(() => bob.payloads().includes("end") && ada.payloads().includes("end"), "the end");
  assert.deepEqual(bob.payloads(), [1, 2, 3, "end"]);
  assert.deepEqual(ada.payloads(), [1, 2, 3, "end"]);
  assert.deepEqual((await ada.call("room:history", { room: "quay" })).messages.map((message) => message.payload), [1, 2, 3, "end"]);
  const complaint = next(ada, "system:error");
  assert.equal((await send(ada, { payload: 4, clientMessageId: "x".repeat(200) })).success, false);
  assert.equal((await complaint).code, "MESSAGE_SEND_FAILED");
}

/** A client that never heard the answer sends again when it is back. */
export async function sentAgainAfterACut() {
  const line = await relay();
  const ada = await joined("ada", "quay", { url: line.url, reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200, randomizationFactor: 0 });
  const bob = await joined("bob", "quay");
  for (const n of range(5)) {
    const body = { room: "quay", payload: n, persistent: n % 2 === 0, clientMessageId: `id-${n}` };
    const heard = next(bob, "room:message");
    const gone = next(ada, "disconnect");
    ada.emit("room:send", body, () => undefined);
    await heard;
    line.cut();
    await gone;
    if (!ada.connected) await next(ada, "connect");
    assert.equal((await ada.call("room:send", body)).success, true);
  }
  await bob.call("room:send", { room: "quay", payload: "end" });
  await until(() => bob.payloads().includes("end"), "the end");
  assert.deepEqual(bob.payloads(), [0, 1, 2, 3, 4, "end"], "each once");
}

const everything = (socket) => JSON.stringify(socket.log);

/** One user name, one room name, one message id: two tenants. */
export async function tenantsInAllButName() {
  const patient = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200, randomizationFactor: 0 };
  const line = await relay();
  const pids = {};
  const here = {};
  for (const tenant of ["north", "south"]) {
    here[tenant] = await joined("ada", "quay", { tenant, url: line.url, ...patient });
    here[`${tenant}Bob`] = await joined("bob", "quay", { tenant });
    pids[tenant] = here[tenant]._pid;
    assert.equal(typeof pids[tenant], "string", "the stock client keeps it there");
  }
  const { north, south, northBob, southBob } = here;
  const both = [["north", northBob], ["south", southBob]];
  const say = async (name, socket, more) => {
    const ack = await socket.call("room:send", { room: "quay", payload: `of the ${name}`, clientMessageId: "same", ...more });
    assert.deepEqual([ack.success, ack.duplicate], [true, undefined], "the other tenant's message is none of ours");
    return ack;
  };
  for (const [name, socket] of both) {
    await say(name, socket, { persistent: true });
    await socket.call("presence:status", { status: "busy", metadata: { [name]: true }, customStatus: `of the ${name}` });
  }
  await until(() => [north, south].every((socket) => socket.payloads().length === 1 && lastOf(socket, "bob")?.customStatus), "own messages and presence");
  // A cut, after which both come back; meanwhile both tenants talk.
  const gone = Promise.all([next(north, "disconnect"), next(south, "disconnect")]);
  line.hold();
  await gone;
  for (const [name, socket] of both) {
    await say(name, socket, { clientMessageId: "missed" });
    await say(name, socket, { clientMessageId: "missed too", persistent: true });
  }
  const back = Promise.all([next(north, "connect"), next(south, "connect")]);
  line.release();
  await back;
  await until(() => [north, south].every((socket) => socket.payloads().length === 3), "what was missed");
  for (const [name, mine, other] of [["north", [north, northBob], "south"], ["south", [south, southBob], "north"]]) {
    assert.equal(mine[0].recovered, true);
    assert.deepEqual(mine[0].payloads(), range(3).map(() => `of the ${name}`));
    for (const socket of mine) assert.ok(!everything(socket).includes(other), `${name} has heard of ${other}: ${everything(socket)}`);
    const { presence } = await mine[1].call("query:presence", { room: "quay" });
    assert.deepEqual(presence.map((info) => info.userId).sort(), ["ada", "bob"]);
    assert.ok(!JSON.stringify(presence).includes(other));
    const page = await mine[1].call("room:history", { room: "quay" });
    assert.deepEqual(page.messages.map((message) => message.payload), range(3).map(() => `of the ${name}`));
    // The other tenant's cursor opens nothing of theirs.
    const foreign = (await (name === "north" ? southBob : northBob).call("room:history", { room: "quay", limit: 1 })).position;
    assert.ok(!JSON.stringify(await mine[1].call("room:history", { room: "quay", since: foreign })).includes(other));
  }
  // Nor does the other tenant's session, even for a user of the same name.
  const offset = north._lastOffset;
  north.disconnect();
  const thief = await connected("ada", { tenant: "south", auth: { token: token("ada", { tenant: "south" }), pid: pids.north, offset } });
  assert.notEqual(thief._pid, pids.north);
  assert.deepEqual((await thief.call("query:rooms")).rooms, []);
  assert.ok(!everything(thief).includes("of the north"));
}
