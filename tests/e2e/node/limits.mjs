// What one address, one user and one tenant may have and do, each limit with its code and the time to wait.
import { assert, connected, joined, next, range, refused, request, until } from "./lib.mjs";

export async function ofUsers() {
  const first = await joined("ada", "a");
  const second = await joined("ada", "b");
  const error = await refused("ada");
  assert.equal(error.message, "Rate limit exceeded");
  assert.equal(error.data.code, "USER_CONNECTION_LIMIT_EXCEEDED");
  // Another tenant's user of the same name is somebody else.
  await joined("ada", "a", { tenant: "north" });
  await first.call("room:join", { room: "c" });
  const denied = await second.call("room:join", { room: "d" });
  assert.deepEqual(denied, { success: false, error: "Too many rooms of this user" });
  assert.equal((await second.call("room:join", { room: "a" })).success, true, "a room that the user is in already");
  first.disconnect();
  await until(async () => {
    const again = await connected("ada").catch(() => null);
    return again !== null;
  }, "a place that has become free");
}

export async function ofEvents() {
  const ada = await joined("ada", "quay");
  const complaint = next(ada, "system:error");
  const acks = await Promise.all(range(25).map((n) => ada.call("room:send", { room: "quay", payload: n })));
  assert.equal(acks.filter((ack) => ack.success).length, 19, "twenty a minute, and the join was one");
  const { code, retryAfter } = await complaint;
  assert.equal(code, "RATE_LIMIT_EXCEEDED");
  assert.ok(retryAfter > 1 && retryAfter <= 60, `${retryAfter}`);
  // A new connection does not make it new.
  const again = await connected("ada");
  assert.equal((await again.call("query:rooms")).success, false);
  // Somebody else is not concerned.
  const bob = await joined("bob", "quay");
  assert.equal((await bob.call("room:send", { room: "quay", payload: "bob" })).success, true);
}

export async function ofTenants() {
  const north = await Promise.all(range(4).map((n) => joined(`n${n}`, "quay", { tenant: "north" })));
  const south = await joined("s", "quay", { tenant: "south" });
  const acks = await Promise.all(north.flatMap((socket) => range(8).map((n) => socket.call("room:send", { room: "quay", payload: n }))));
  const sent = acks.filter((ack) => ack.success).length;
  assert.ok(sent >= 16 && sent < 32, `${sent} of 32: twenty at once for the tenant, joins included`);
  assert.equal((await south.call("room:send", { room: "quay", payload: "south" })).success, true);
}

const handshake = () => request("/socket.io/?EIO=4&transport=polling");

export async function ofAddresses() {
  const sockets = await Promise.all(range(5).map((n) => connected(`u${n}`)));
  const full = await handshake();
  assert.equal(full.status, 429);
  assert.equal(full.json.error.code, "RATE_LIMITED");
  assert.ok(Number(full.headers.get("retry-after")) >= 1);
  await assert.rejects(connected("one-too-many"));
  sockets[0].disconnect();
  await until(async () => (await handshake()).status === 200, "a place that has become free");
}

export async function ofArrivals() {
  const answers = await Promise.all(range(12).map(handshake));
  const taken = answers.filter((answer) => answer.status === 200).length;
  assert.ok(taken >= 5 && taken < 12, `${taken} of 12`);
  const late = answers.find((answer) => answer.status === 429);
  assert.ok(Number(late.headers.get("retry-after")) >= 1);
  await until(async () => (await handshake()).status === 200, "a place in the pace");
}
