// Stock clients in front of several nodes, each of their requests at another one.
import http from "node:http";
import net from "node:net";
import { assert, atEnd, client, joined, next, range, server, settings, token, until, within } from "./lib.mjs";

const targets = () => process.env.TIDEGATE_TARGETS.split(",");

/** A balancer without any memory: each connection goes to the next of them. */
async function spread(places = targets()) {
  const sockets = new Set();
  let turn = 0;
  const balancer = net.createServer((near) => {
    const [host, port] = places[turn++ % places.length].split(":");
    const far = net.connect(Number(port), host);
    for (const [one, other] of [[near, far], [far, near]]) {
      sockets.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => { sockets.delete(one); other.destroy(); });
      one.pipe(other);
    }
  });
  await new Promise((resolve) => balancer.listen(0, "127.0.0.1", resolve));
  atEnd(() => { for (const socket of sockets) socket.destroy(); balancer.close(); });
  return `http://127.0.0.1:${balancer.address().port}`;
}

const elsewhereEachTime = () => new http.Agent({ keepAlive: false });

/** Whatever the transport and whichever node gets a request: nothing is lost, doubled or out of order. */
export async function everywhere() {
  const url = await spread();
  for (const transports of [["polling"], ["websocket"], ["polling", "websocket"]]) {
    await Promise.all(range(6).map(async (who) => {
      const room = `${transports.join("-")}-${who}`;
      const socket = await joined(`user${who}`, room, { url, transports, agent: elsewhereEachTime() });
      const acks = [];
      for (const n of range(15)) acks.push(socket.call("room:send", { room, payload: { n } }));
      for (const ack of await Promise.all(acks)) assert.equal(ack.success, true, JSON.stringify(ack));
      await until(() => socket.payloads().length >= 15, "its own messages");
      assert.deepEqual(socket.payloads(), range(15).map((n) => ({ n })));
      await until(() => socket.io.engine.transport.name === transports.at(-1), `${transports.at(-1)}`);
      const big = "x".repeat(200_000);
      assert.equal((await socket.call("room:send", { room, payload: { big } })).success, true);
      await until(() => socket.payloads().at(-1).big === big, "a large message");
      socket.disconnect();
    }));
  }
}

/** Clients of nodes that go away one after another are served by those that stay. */
export async function nodesThatLeave() {
  const url = process.env.TIDEGATE_GATEWAY;
  const sockets = await Promise.all(range(12).map(async (who) => {
    const transports = [["polling"], ["websocket"], ["polling", "websocket"]][who % 3];
    const socket = client(`user${who}`, { url, transports, reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 });
    socket.connects = 0;
    socket.on("connect", () => { socket.connects += 1; });
    await next(socket, "connect");
    return socket;
  }));
  const echo = async (socket) => {
    const room = `own-${socket.io.engine.id}`;
    const joined = await socket.timeout(2_000).emitWithAck("room:join", { room }).catch(() => ({}));
    return joined.success === true && socket.connected;
  };
  for (const what of ["term", "kill"]) {
    await server(what);
    for (const socket of sockets) await until(async () => socket.connected && await echo(socket), `a client to be served after ${what}`);
  }
  assert.ok(sockets.some((socket) => socket.connects > 1), "somebody had to move");
}

/** Opens a polling session at the first place, and returns what asks for it at another. */
export async function open(place) {
  const head = await (await fetch(`http://${place}/socket.io/?EIO=4&transport=polling`)).text();
  const { sid } = JSON.parse(head.slice(1));
  return {
    sid,
    post: (at, body) => fetch(`http://${at}/socket.io/?EIO=4&transport=polling&sid=${sid}`, { method: "POST", body, signal: AbortSignal.timeout(20_000) }),
    poll: (at) => fetch(`http://${at}/socket.io/?EIO=4&transport=polling&sid=${sid}`, { signal: AbortSignal.timeout(60_000) }),
  };
}

const connect = (user) => `40${JSON.stringify({ token: token(user) })}`;

/** Whose node was killed is told at once that the session is no more, also in the middle of a poll. */
export async function killedOwner() {
  const [first, second] = targets();
  const session = await open(first);
  assert.equal((await session.post(second, connect("ada"))).status, 200);
  assert.match(await (await session.poll(second)).text(), /^40/);
  const waiting = session.poll(second);
  await new Promise((resolve) => setTimeout(resolve, 300));
  await server("kill");
  const broken = await within(waiting, "the poll to end with its node", 5_000);
  assert.deepEqual([broken.status, await broken.json()], [400, { code: 1, message: "Session ID unknown" }]);
  for (const after of ["while it is not known to be dead", "when it is"]) {
    const begin = Date.now();
    const answer = await session.poll(second);
    assert.deepEqual([answer.status, (await answer.json()).code], [400, 1], after);
    assert.ok(Date.now() - begin < 2_000, `${after}: at once`);
    await server("forgotten");
  }
}

/** A node that is paused for longer than the timeout comes back under its number, with its sessions. */
export async function pausedOwner() {
  const [first, second] = targets();
  const session = await open(first);
  assert.equal((await session.post(second, connect("ada"))).status, 200);
  assert.match(await (await session.poll(second)).text(), /^40/);
  await server("pause");
  const gone = await session.poll(second);
  assert.deepEqual([gone.status, (await gone.json()).code], [400, 1], "nobody has it meanwhile");
  await server("resume");
  assert.equal((await session.post(second, `42["room:join",{"room":"late"}]`)).status, 200);
  assert.match(await (await session.poll(second)).text(), /./);
}

/** Who is in a room by way of a paused node goes, once, and is there again when it goes on. */
export async function pausedPresence() {
  const [first, second] = targets();
  const bob = await joined("bob", "bridge", { url: `http://${second}` });
  const ada = await joined("ada", "bridge", { url: `http://${first}` });
  const times = (event) => bob.of(event).filter((body) => JSON.stringify(body).includes("ada")).length;
  await until(() => times("presence:join") === 1, "ada to come");
  await server("pause");
  await until(() => times("presence:leave") === 1, "ada to be gone with her node");
  await server("resume");
  await until(() => times("presence:join") === 2, "ada to be there again");
  assert.equal(times("presence:leave"), 1);
  assert.equal((await bob.call("room:send", { room: "bridge", payload: "hello" })).success, true);
  await until(() => ada.payloads().includes("hello"), "ada to hear bob");
}
