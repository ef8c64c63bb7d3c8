// permessage-deflate with stock clients. What went over the wire compressed is told by the bytes that a `ws` receiver read.
import { once } from "node:events";
import WebSocket from "ws";
import { assert, atEnd, client, joined, next, range, relay, settings, token, until, within } from "./lib.mjs";

const text = (size) => "the tide comes in and the tide goes out, ".repeat(Math.ceil(size / 41)).slice(0, size);
/** What the stock client needs to ask for compression in Node, and to compress its own messages. */
const deflate = { perMessageDeflate: { threshold: 0 } };

const websocketOf = (socket) => socket.io.engine.transport.ws;
const bytesRead = (socket) => websocketOf(socket)._socket.bytesRead;

async function everybodyGets(sender, receivers, payload) {
  const arrived = Promise.all(receivers.map((socket) => next(socket, "room:message")));
  const ack = await sender.call("room:send", { room: "quay", payload });
  assert.equal(ack.success, true);
  for (const message of await arrived) assert.deepEqual(message.payload, payload);
}

export async function stockClients() {
  const plain = await joined("plain", "quay", { perMessageDeflate: false });
  const ada = await joined("ada", "quay", deflate);
  const bob = await joined("bob", "quay", deflate);
  const poller = await joined("poller", "quay", { transports: ["polling"] });
  assert.match(websocketOf(ada).extensions, /permessage-deflate/);
  assert.equal(websocketOf(plain).extensions, "");
  for (const size of [0, 1, 20, 63, 64, 65, 125, 126, 1_000, 65_000, 66_000, 400_000]) {
    const before = [plain, ada].map(bytesRead);
    await everybodyGets(ada, [plain, ada, bob, poller], { text: text(size) });
    await everybodyGets(plain, [plain, ada, bob, poller], { text: text(size) });
    const [more, less] = [plain, ada].map((socket, index) => bytesRead(socket) - before[index]);
    if (size >= 1_000) assert.ok(less < more / 3, `${size}: ${less} bytes instead of ${more}`);
  }
  const bytes = Buffer.from(text(50_000));
  const arrived = Promise.all([plain, ada, bob].map((socket) => next(socket, "room:message")));
  await ada.call("room:send", { room: "quay", payload: { bytes, noise: Buffer.from(range(3000).map((n) => (n * n * 31) % 251)) } });
  for (const message of await arrived) assert.ok(Buffer.from(message.payload.bytes).equals(bytes));
  // Many messages at once, in order, to both kinds.
  const count = 150;
  const offset = [plain, ada].map((socket) => socket.payloads().length);
  await Promise.all(range(count).map((n) => bob.call("room:send", { room: "quay", payload: { n, text: text(300 + n) } })));
  for (const [index, socket] of [plain, ada].entries()) {
    await until(() => socket.payloads().length >= offset[index] + count, "all messages");
    assert.deepEqual(socket.payloads().slice(offset[index]).map((payload) => payload.n), range(count));
  }
  // An ack, which is a message to one.
  const before = bytesRead(ada);
  const history = await ada.call("query:rooms", {});
  assert.ok(Array.isArray(history.rooms));
  assert.ok(bytesRead(ada) > before);
}

/** A raw `ws` with an own offer, let in and in the room. */
async function raw(user, perMessageDeflate) {
  const socket = new WebSocket(`${settings.url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`, { perMessageDeflate });
  atEnd(() => socket.terminate());
  const heard = [];
  socket.on("message", (data, isBinary) => { if (!isBinary) { heard.push(String(data)); if (String(data) === "2") socket.send("3"); } });
  await within(once(socket, "open"), "open");
  socket.send(`40${JSON.stringify({ token: token(user) })}`);
  socket.send(`421${JSON.stringify(["room:join", { room: "quay" }])}`);
  await until(() => heard.some((packet) => packet.startsWith("431")), "the join");
  return { socket, heard, payloads: () => heard.filter((packet) => packet.startsWith('42["room:message"')).map((packet) => JSON.parse(packet.slice(2))[1].payload) };
}

export async function smallWindow() {
  // The receiver inflates with a window of 512 bytes: a distance beyond it would break the connection.
  for (const bits of [9, 10, 15]) {
    const narrow = await raw(`narrow${bits}`, { serverMaxWindowBits: bits, threshold: 0 });
    // It would have closed a connection whose answer does not name its window.
    assert.equal(narrow.socket.extensions, "permessage-deflate");
    const ada = await joined("ada", "quay", deflate);
    const sizes = [100, 200, 300, 500, 700, 1_000, 5_000, 40_000];
    for (const size of sizes) await ada.call("room:send", { room: "quay", payload: text(size) });
    await until(() => narrow.payloads().length === sizes.length, "all of them");
    assert.deepEqual(narrow.payloads(), sizes.map(text));
    assert.equal(narrow.socket.readyState, WebSocket.OPEN);
    narrow.socket.close();
    ada.disconnect();
  }
  // A client that would take its context over, and does not because it was asked not to.
  const wide = await raw("wide", { threshold: 0 });
  for (const n of range(5)) wide.socket.send(`42${JSON.stringify(["room:send", { room: "quay", payload: { n, text: text(2_000) } }])}`);
  await until(() => wide.payloads().length === 5, "its own messages");
  assert.deepEqual(wide.payloads().map((payload) => payload.n), range(5));
}

export async function upgradedAndRecovered() {
  const wire = await relay();
  const ada = client("ada", { ...deflate, transports: ["polling", "websocket"], url: wire.url, reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 100 });
  const upgraded = new Promise((resolve) => ada.io.engine.once("upgrade", resolve));
  await next(ada, "connect");
  assert.equal((await ada.call("room:join", { room: "quay" })).success, true);
  await within(upgraded, "the upgrade");
  assert.match(websocketOf(ada).extensions, /permessage-deflate/);
  const bob = await joined("bob", "quay", deflate);
  await everybodyGets(bob, [ada, bob], { n: 0, text: text(5_000) });
  wire.hold();
  await until(() => !ada.connected, "the cut");
  for (const n of range(5, 1)) assert.equal((await bob.call("room:send", { room: "quay", payload: { n, text: text(5_000) } })).success, true);
  wire.release();
  await until(() => ada.connected, "the way back");
  assert.equal(ada.recovered, true);
  await until(() => ada.payloads().length === 6, "what was missed");
  assert.deepEqual(ada.payloads().map((payload) => payload.n), range(6));
}

export async function offByDefault() {
  const ada = await joined("ada", "quay", deflate);
  assert.equal(websocketOf(ada).extensions, "");
  await everybodyGets(ada, [ada], { text: text(5_000) });
}

export async function browser() {
  const { chromium } = await import("playwright-core");
  const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"];
  const chrome = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: flags, timeout: 60_000 });
  atEnd(() => chrome.close());
  const page = await chrome.newPage();
  await page.goto(`${settings.url}/socket.io/?EIO=4&transport=polling`);
  const payload = text(20_000);
  const seen = await page.evaluate(async ([address, secret, payload]) => {
    const socket = new WebSocket(address);
    const heard = [];
    await new Promise((resolve, reject) => {
      socket.onerror = () => reject(new Error("broken"));
      socket.onclose = (event) => reject(new Error(`closed with ${event.code}`));
      socket.onmessage = ({ data }) => {
        heard.push(data);
        if (data === "2") socket.send("3");
        if (data.startsWith("0{")) socket.send(`40${JSON.stringify({ token: secret })}`);
        if (data.startsWith("40{")) socket.send(`421${JSON.stringify(["room:join", { room: "quay" }])}`);
        if (data.startsWith("431")) socket.send(`42${JSON.stringify(["room:send", { room: "quay", payload }])}`);
        if (data.startsWith('42["room:message"')) resolve();
      };
    });
    const closed = new Promise((resolve) => { socket.onclose = (event) => resolve([event.code, event.wasClean]); });
    socket.close(4321, "done");
    return { extensions: socket.extensions, message: JSON.parse(heard.at(-1).slice(2))[1].payload, closed: await closed };
  }, [`${settings.url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`, token("ada"), payload]);
  assert.match(seen.extensions, /permessage-deflate/);
  assert.equal(seen.message, payload);
  assert.deepEqual(seen.closed, [4321, true], "the close is answered with its code");
}
