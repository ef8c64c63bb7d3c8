// What the store does when the disk is full, or when its journal ends in the middle of a write.
import { assert, joined, range, server, until } from "./lib.mjs";

export async function aFullDisk() {
  const ada = await joined("ada", "quay");
  const bob = await joined("bob", "quay");
  const stored = [];
  let n = 0;
  const send = async (persistent, filler = "") => {
    const payload = { n: n++, filler };
    const ack = await ada.call("room:send", { room: "quay", payload, persistent });
    if (ack.success && persistent) stored.push(payload.n);
    return ack;
  };
  for (const round of range(2)) {
    for (const _ of range(3)) assert.equal((await send(true)).success, true);
    const { error } = await server("fill");
    assert.match(error, /No space left on device/);
    // What the journal has allocated already is still there for a few.
    let ack;
    do ack = await send(true, "x".repeat(50_000)); while (ack.success);
    assert.deepEqual(ack, { success: false, error: "The message could not be stored; send it again" });
    assert.equal(ada.of("system:error").at(-1).code, "MESSAGE_SEND_FAILED");
    const seen = bob.payloads().length;
    for (const _ of range(5)) assert.equal((await send(false)).success, true, "what needs no disk goes on");
    await until(() => bob.payloads().length >= seen + 5, "messages that need no disk");
    const cleo = await joined(`cleo${round}`, "quay");
    assert.ok((await cleo.call("query:presence", { room: "quay" })).presence.length >= 3);
    await server("free");
    await until(async () => (await send(true)).success, "the store to come back");
  }
  await until(() => bob.payloads().some((payload) => payload.n === stored.at(-1)), "the last message");
  const past = await bob.call("room:history", { room: "quay", limit: 1000 });
  const kept = past.messages.map((message) => message.payload.n);
  assert.deepEqual(stored.filter((one) => !kept.includes(one)), [], "what was acknowledged is there");
}

export async function aTornJournal() {
  const ada = await joined("ada", "quay");
  for (const n of range(10)) assert.equal((await ada.call("room:send", { room: "quay", payload: { n }, persistent: true })).success, true);
  const { position } = await ada.call("room:history", { room: "quay" });
  ada.disconnect();
  await server("kill");
  await server("wait");
  const { bytes } = await server("tear");
  await server("start");
  const { text } = await server("output");
  assert.ok(text.includes("cut off the unfinished end of the history store's journal") && text.includes(String(bytes)), text);
  const bob = await joined("bob", "quay");
  const past = await bob.call("room:history", { room: "quay" });
  assert.deepEqual(past.messages.map((message) => message.payload.n), range(10), "all that was acknowledged");
  assert.equal(past.position, position, "the same life of the counters");
}
