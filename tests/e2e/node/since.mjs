// Joining a room from where it was read: what was missed comes first, then what is live; or the client is told.
import { assert, connected, joined, range, server, token, until } from "./lib.mjs";

const numbers = (socket) => socket.payloads().map((payload) => payload.n);
const offsetOf = (socket, n) => socket.log.find(({ event, value }) => event === "room:message" && value.payload.n === n).values[1];

async function send(socket, room, from, count, persistent) {
  for (const n of range(count, from)) {
    const ack = await socket.call("room:send", { room, payload: { n }, persistent: persistent?.(n) ?? false });
    assert.equal(ack.success, true, JSON.stringify(ack));
  }
}

export async function fromAPosition() {
  const ada = await joined("ada", "log");
  await send(ada, "log", 0, 4, () => true);
  const { position } = await ada.call("room:history", { room: "log" });
  await send(ada, "log", 4, 6, (n) => n % 2 === 0);
  const bob = await connected("bob");
  const ack = await bob.call("room:join", { room: "log", since: position, metadata: { a: 1 } });
  assert.deepEqual([ack.success, ack.recovered], [true, true]);
  assert.deepEqual(numbers(bob), range(6, 4), "all of it was there before the ack");
  const events = bob.log.map(({ event }) => event);
  assert.ok(events.lastIndexOf("room:message") < events.indexOf("room:joined"), events.join());
  assert.deepEqual(bob.of("room:joined"), [{ room: "log", metadata: { a: 1 }, recovered: true, position: ack.position }]);
  // An offset of one of them would send the client back: it stands for all of its rooms.
  assert.ok(bob.log.filter(({ event }) => event === "room:message").every(({ values }) => values.length === 1));
  await send(ada, "log", 10, 2);
  await until(() => numbers(bob).length === 8, "live messages");
  assert.deepEqual(numbers(bob), range(8, 4));

  // From where the reply said, and from the offset that came with a message.
  const cleo = await connected("cleo");
  assert.equal((await cleo.call("room:join", { room: "log", since: ack.position })).recovered, true);
  assert.deepEqual(numbers(cleo), [10, 11]);
  const dora = await connected("dora");
  assert.equal((await dora.call("room:join", { room: "log", since: offsetOf(ada, 7) })).recovered, true);
  assert.deepEqual(numbers(dora), range(4, 8));
  // Nothing missed.
  const eve = await connected("eve");
  assert.equal((await eve.call("room:join", { room: "log", since: offsetOf(ada, 11) })).recovered, true);
  assert.deepEqual(numbers(eve), []);
}

export async function whatCannotBeProvenIsTold() {
  const ada = await joined("ada", "log");
  await send(ada, "log", 0, 3);
  const bob = await connected("bob");
  for (const [room, since] of [["log", "abc-1"], ["log", "abc.1"], ["log", "0-99"]]) {
    const ack = await bob.call("room:join", { room, since });
    assert.deepEqual([ack.success, ack.recovered], [true, false], since);
    assert.match(ack.position, /^[0-9a-f]+-3$/);
    await bob.call("room:leave", { room });
  }
  assert.deepEqual(numbers(bob), [], "nothing, rather than a part");
  for (const since of ["", "x", 7, {}, "1_2", "-"]) {
    const ack = await bob.call("room:join", { room: "log", since });
    assert.equal(ack.success, false, JSON.stringify(since));
  }
  assert.ok(bob.of("system:error").every(({ code }) => code === "ROOM_JOIN_FAILED"));
  assert.deepEqual((await bob.call("query:rooms", {})).rooms, []);

  // A member has had everything since it joined, and nothing from before.
  assert.equal((await bob.call("room:join", { room: "log" })).success, true);
  await send(ada, "log", 3, 2);
  await until(() => numbers(bob).length === 2, "live messages");
  assert.equal((await bob.call("room:join", { room: "log", since: offsetOf(bob, 3) })).recovered, true);
  assert.equal((await bob.call("room:join", { room: "log", since: offsetOf(ada, 2) })).recovered, true);
  assert.equal((await bob.call("room:join", { room: "log", since: offsetOf(ada, 1) })).recovered, false);
  assert.deepEqual(numbers(bob), [3, 4], "nothing twice");

  // Whoever may not read the history may not read it by joining.
  const deaf = await connected("deaf", { auth: { token: token("deaf", { permissions: ["room:log:join,send"] }) } });
  assert.deepEqual(await deaf.call("room:join", { room: "log", since: offsetOf(ada, 1) }), { success: false, error: "Unauthorized" });
  assert.equal((await deaf.call("room:join", { room: "log" })).success, true);
}

export async function againAndAgainUnderTraffic() {
  const senders = await Promise.all(range(4).map((n) => joined(`sender${n}`, "surf")));
  let sending = true;
  const counts = senders.map(() => 0);
  const traffic = Promise.all(senders.map(async (socket, who) => {
    while (sending && counts[who] < 180) {
      const n = counts[who]++;
      const ack = await socket.call("room:send", { room: "surf", payload: { who, n }, persistent: n % 3 === 0 });
      assert.equal(ack.success, true, JSON.stringify(ack));
    }
  }));
  const bob = await connected("bob");
  // Where the reader stands: the offset of the last live message, or else what the last reply said.
  let since;
  bob.on("room:message", (_, offset) => { since = offset ?? since; });
  const first = await senders[0].call("room:history", { room: "surf", limit: 1 });
  since = first.position;
  for (const _ of range(25)) {
    const ack = await bob.call("room:join", { room: "surf", since });
    assert.equal(ack.recovered, true, JSON.stringify(ack));
    since = ack.position;
    const seen = bob.payloads().length;
    await until(() => bob.payloads().length > seen + 2 || counts.every((count) => count >= 180), "traffic");
    await bob.call("room:leave", { room: "surf" });
  }
  sending = false;
  await traffic;
  assert.equal((await bob.call("room:join", { room: "surf", since })).recovered, true);
  for (const who of range(4)) {
    const seen = bob.payloads().filter((payload) => payload.who === who).map((payload) => payload.n);
    assert.deepEqual(seen, range(seen.length, seen[0] ?? 0), `all of sender ${who}, once, in order`);
    assert.equal(seen.at(-1), counts[who] - 1);
  }
}

export async function fromTheStoreAfterAKill() {
  const ada = await joined("ada", "log");
  await send(ada, "log", 0, 5, () => true);
  const { position } = await ada.call("room:history", { room: "log" });
  const offset = offsetOf(ada, 1);
  await send(ada, "log", 5, 5, () => true);
  ada.disconnect();
  await server("kill");
  await server("wait");
  await server("start");
  const bob = await connected("bob");
  const ack = await bob.call("room:join", { room: "log", since: position });
  assert.equal(ack.recovered, true);
  assert.deepEqual(numbers(bob), range(5, 5));
  const cleo = await connected("cleo");
  assert.equal((await cleo.call("room:join", { room: "log", since: offset })).recovered, true);
  assert.deepEqual(numbers(cleo), range(8, 2));
  await send(bob, "log", 10, 1, () => true);
  await until(() => numbers(bob).length === 6 && numbers(cleo).length === 9, "live messages");

  // What was not persistent is gone with the process: who missed some of it is told.
  const before = (await bob.call("room:history", { room: "log", limit: 1 })).position;
  await send(bob, "log", 11, 3);
  const page = await bob.call("room:history", { room: "log", since: before });
  assert.deepEqual([page.messages.map((message) => message.payload.n), page.truncated], [[11, 12, 13], false], "from memory");
  const lost = offsetOf(bob, 11);
  bob.disconnect();
  cleo.disconnect();
  await server("kill");
  await server("wait");
  await server("start");
  const dora = await connected("dora");
  const told = await dora.call("room:join", { room: "log", since: lost });
  assert.equal(told.recovered, false);
  assert.deepEqual(numbers(dora), []);
  const gone = await dora.call("room:history", { room: "log", since: before });
  assert.deepEqual([gone.messages, gone.truncated], [[], true], "a loss is told");
  await send(dora, "log", 20, 1, () => true);
  const rest = await dora.call("room:history", { room: "log", since: told.position });
  assert.deepEqual(rest.messages.map((message) => message.payload.n), [20], "the position goes on from there");
}
