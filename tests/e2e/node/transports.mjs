// Engine.IO and Socket.IO as the stock client speaks them.
import { assert, client, connected, joined, keysOf, next, range, refused, settings, token, until, within } from "./lib.mjs";

const transportOf = (socket) => socket.io.engine.transport.name;

async function talk(transports) {
  const ada = await joined("ada", "quay", { transports });
  const bob = await joined("bob", "quay", { transports });
  for (const n of range(20)) {
    const ack = await (n % 2 ? ada : bob).call("room:send", { room: "quay", payload: { n } });
    assert.equal(ack.success, true);
  }
  for (const socket of [ada, bob]) {
    await until(() => socket.payloads().length >= 20, "20 messages");
    assert.deepEqual(socket.payloads(), range(20).map((n) => ({ n })));
    assert.equal(transportOf(socket), transports[0]);
  }
}

export const pollingOnly = () => talk(["polling"]);
export const websocketOnly = () => talk(["websocket"]);

export async function upgradeUnderTraffic() {
  // Senders on WebSockets never pause, so that every receiver's upgrade falls into traffic.
  const senders = await Promise.all(range(4).map((n) => joined(`sender${n}`, "lock")));
  const each = 180;
  let stop = false;
  const sent = senders.map(() => 0);
  const sending = Promise.all(senders.map(async (socket, who) => {
    while (sent[who] < each && !stop) {
      const n = sent[who]++;
      const ack = await socket.call("room:send", { room: "lock", payload: { who, n } });
      assert.equal(ack.success, true);
    }
  }));
  const receivers = await Promise.all(range(8).map(async (n) => {
    const socket = client(`receiver${n}`, { transports: ["polling", "websocket"] });
    const upgraded = new Promise((resolve) => socket.io.engine.once("upgrade", resolve));
    await next(socket, "connect");
    // Echoes of its own go out during the upgrade too: loss in either direction shows.
    const acks = range(20).map((k) => socket.call("room:join", { room: `own${n}` }).then(() => socket.call("room:send", { room: `own${n}`, payload: { own: k } })));
    const ack = await socket.call("room:join", { room: "lock" });
    assert.equal(ack.success, true);
    await within(upgraded, "the upgrade");
    assert.equal(transportOf(socket), "websocket");
    assert.ok((await Promise.all(acks)).every((own) => own.success));
    return socket;
  }));
  await sending;
  stop = true;
  for (const socket of receivers) {
    const last = (who) => socket.payloads().filter((payload) => payload.who === who).at(-1)?.n;
    await until(() => senders.every((_, who) => last(who) === each - 1 || last(who) === undefined), "the last messages");
    for (const who of range(senders.length)) {
      const numbers = socket.payloads().filter((payload) => payload.who === who).map((payload) => payload.n);
      if (numbers.length > 0) assert.deepEqual(numbers, range(each - numbers[0], numbers[0]), "no loss, no duplicate, in order");
    }
    const own = () => socket.payloads().filter((payload) => payload.own !== undefined).map((payload) => payload.own);
    await until(() => own().length >= 20, "the echoes of its own");
    assert.deepEqual(own(), range(20));
  }
  // A sender's ack says that its own message is out; those of the others are on their way on other connections.
  for (const socket of senders) {
    await until(() => socket.payloads().length >= each * senders.length, "every message at every sender");
    for (const who of range(senders.length)) {
      assert.deepEqual(socket.payloads().filter((payload) => payload.who === who).map((payload) => payload.n), range(each));
    }
  }
}

function sample(bytes) {
  const buffer = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) buffer[i] = (i * 31 + (i >> 8)) & 0xff;
  return buffer;
}

const sameBytes = (got, wanted, what) => assert.ok(Buffer.from(got).equals(wanted), `${what}: ${got?.byteLength ?? got?.length} bytes`);

async function binary(transports, sizes) {
  const ada = await joined("ada", "hold", { transports });
  const bob = await joined("bob", "hold", { transports });
  for (const size of sizes) {
    const bytes = sample(size);
    const arrived = Promise.all([next(ada, "room:message"), next(bob, "room:message")]);
    const ack = await ada.call("room:send", { room: "hold", payload: { name: "ä\u{1F30A}", bytes, list: [bytes.subarray(0, 3), 7] } });
    assert.equal(ack.success, true, `${size} bytes: ${JSON.stringify(ack)}`);
    for (const message of await arrived) {
      assert.equal(message.payload.name, "ä\u{1F30A}");
      sameBytes(message.payload.bytes, bytes, "payload.bytes");
      sameBytes(message.payload.list[0], bytes.subarray(0, 3), "payload.list[0]");
      assert.equal(message.payload.list[1], 7);
      assert.equal(message.from, "ada");
    }
  }
  const text = "wave \u{1F30A} \u0000 \u2028 \"quoted\" \\ ".repeat(500);
  const arrived = next(bob, "room:message");
  await ada.call("room:send", { room: "hold", payload: text });
  assert.equal((await arrived).payload, text);
  // A buffer as the whole payload, stored; history shows binary values as JSON does, because one packet may carry ten only.
  const whole = sample(5000);
  const live = next(bob, "room:message");
  await ada.call("room:send", { room: "hold", payload: whole, persistent: true });
  sameBytes((await live).payload, whole, "live");
  const past = await bob.call("room:history", { room: "hold" });
  sameBytes(Buffer.from(past.messages.at(-1).payload.base64, "base64"), whole, "history");
}

export const binaryOverWebsocket = () => binary(["websocket"], [0, 1, 124, 125, 126, 127, 65535, 65536, 300_000, 900_000]);
export const binaryOverPolling = () => binary(["polling"], [0, 1, 2, 3, 1000, 65536, 300_000]);

export async function tooManyBytes() {
  const ada = await joined("ada", "hold");
  const gone = next(ada, "disconnect");
  ada.emit("room:send", { room: "hold", payload: "x".repeat(1_200_000) });
  await gone;
  const again = await joined("ada", "hold");
  assert.equal((await again.call("room:send", { room: "hold", payload: "still here" })).success, true);
}

export async function namespaces() {
  for (const namespace of ["/nope", "/admin", "/a/deep/one", "/ünï"]) {
    const error = await refused("ada", { namespace });
    assert.equal(error.message, "Invalid namespace", namespace);
  }
  // A refused namespace on a shared connection leaves the others alone.
  const main = await connected("ada");
  const other = main.io.socket("/nope", { auth: { token: token("ada") } });
  const refusal = next(other, "connect_error");
  other.connect();
  assert.equal((await refusal).message, "Invalid namespace");
  assert.equal((await main.call("room:join", { room: "quay" })).success, true);
}

export async function connectErrors() {
  const cases = [
    [{ auth: {} }, "Authentication token required"],
    [{ auth: { token: "" } }, "Authentication token required"],
    [{ auth: { token: token("ada", { expiresIn: -5 }) } }, "Token expired"],
    [{ auth: { token: "garbage" } }, "Invalid token"],
    [{ auth: { token: "a.b.c" } }, "Invalid token"],
    [{ auth: { token: token("ada", { secret: "another secret of some length, 32 bytes" }) } }, "Invalid token"],
    [{ auth: { token: token("ada", { alg: "none" }) } }, "Invalid token"],
    [{ auth: { token: `${token("ada").slice(0, -3)}AAA` } }, "Invalid token"],
  ];
  for (const transports of [["websocket"], ["polling"]]) {
    for (const [options, message] of cases) {
      const error = await refused("nobody", { transports, ...options });
      assert.equal(error.message, message, `${transports} ${JSON.stringify(options).slice(0, 40)}`);
    }
    const socket = await connected("ada", { transports, auth: {}, extraHeaders: { authorization: `Bearer ${token("ada")}` } });
    assert.ok(socket.id);
  }
}

export async function established() {
  const socket = await connected("ada");
  const body = await (async () => { await until(() => socket.of("connection:established").length > 0, "connection:established"); return socket.of("connection:established")[0]; })();
  assert.deepEqual(keysOf(body), ["connectionId", "tenantId"]);
  assert.equal(body.tenantId, "default");
  assert.equal(body.connectionId, socket.id);
  assert.notEqual(socket.id, socket.io.engine.id, "the Engine.IO sid is a secret and must differ");
}

export async function handshakeErrors() {
  const get = async (query, init = {}) => {
    const response = await fetch(`${settings.url}/socket.io/?${query}`, init);
    return { status: response.status, body: await response.json() };
  };
  assert.deepEqual(await get("EIO=4&transport=tube"), { status: 400, body: { code: 0, message: "Transport unknown" } });
  assert.deepEqual(await get("EIO=4&transport=polling&sid=nosuchsid"), { status: 400, body: { code: 1, message: "Session ID unknown" } });
  assert.deepEqual(await get("EIO=4&transport=polling", { method: "POST", body: "x" }), { status: 400, body: { code: 2, message: "Bad handshake method" } });
  assert.deepEqual(await get("EIO=4&transport=websocket"), { status: 400, body: { code: 3, message: "Bad request" } });
  assert.deepEqual(await get("EIO=3&transport=polling"), { status: 400, body: { code: 5, message: "Unsupported protocol version" } });
  assert.deepEqual(await get("EIO=3"), { status: 400, body: { code: 5, message: "Unsupported protocol version" } });
  const opened = await fetch(`${settings.url}/socket.io/?EIO=4&transport=polling`);
  const text = await opened.text();
  assert.equal(text[0], "0");
  assert.deepEqual(keysOf(JSON.parse(text.slice(1))), ["maxPayload", "pingInterval", "pingTimeout", "sid", "upgrades"]);
  assert.deepEqual(JSON.parse(text.slice(1)).upgrades, ["websocket"]);
  assert.match(opened.headers.get("content-type"), /^text\/plain; charset=UTF-8$/i);
  assert.match(opened.headers.get("cache-control"), /no-store/);
}
