// Tokens over their life: whose count, renewed in band, ended, thrown out.
import { createSign, generateKeyPairSync } from "node:crypto";
import { renameSync, writeFileSync } from "node:fs";
import { assert, client, joined, next, request, settings, stream, token, until, within } from "./lib.mjs";
import WebSocket from "ws";

const base64url = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A key of an issuer: signs ES256 tokens, and is published as a JWK. */
function issuerKey(kid) {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return {
    jwk: { ...publicKey.export({ format: "jwk" }), kid, use: "sig", alg: "ES256" },
    sign(user, more = {}) {
      const now = Math.floor(Date.now() / 1000);
      const claims = { sub: user, iat: now, exp: now + 3600, aud: ["rooms"], iss: "https://id.example", ...more };
      const head = `${base64url({ alg: "ES256", typ: "JWT", kid })}.${base64url(claims)}`;
      const signature = createSign("sha256").update(head).sign({ key: privateKey, dsaEncoding: "ieee-p1363" });
      return `${head}.${signature.toString("base64url")}`;
    },
  };
}

/** As an editor or a config map replaces a file: at once. */
function publish(...keys) {
  const path = process.env.TIDEGATE_JWKS;
  writeFileSync(`${path}.new`, JSON.stringify({ keys: keys.map((key) => key.jwk) }));
  renameSync(`${path}.new`, path);
}

const letIn = (given) => new Promise((resolve) => {
  const socket = client("nobody", { auth: { token: given } });
  socket.once("connect", () => resolve(socket));
  socket.once("connect_error", (error) => resolve(error.message));
});
const isIn = (given) => letIn(given).then((socket) => typeof socket !== "string");

/** Keys are rotated while clients are connected: with the new one let in, with the old one not any more, nobody cut. */
export async function keysAreRotated() {
  const [old, young] = [issuerKey("old"), issuerKey("young")];
  publish(old);
  await until(() => isIn(old.sign("ada")), "the first key");
  const ada = await letIn(old.sign("ada"));
  assert.equal((await ada.call("room:join", { room: "quay" })).success, true);
  assert.equal(await letIn(young.sign("bob")), "Invalid token");
  assert.equal(await letIn(old.sign("bob", { aud: "billing" })), "Invalid token");
  assert.equal(await letIn(old.sign("bob", { iss: "https://other.example" })), "Invalid token");
  assert.equal(await letIn(old.sign("bob", { exp: 1 })), "Token expired");
  assert.equal(await letIn(token("bob")), "Invalid token", "HS256, under whatever");
  publish(old, young);
  await until(() => isIn(young.sign("bob")), "the second key beside the first");
  assert.ok(await isIn(old.sign("cleo")));
  publish(young);
  await until(async () => !(await isIn(old.sign("cleo"))), "the first key to be gone");
  assert.ok(ada.connected, "who is connected stays");
  assert.equal((await ada.call("room:send", { room: "quay", payload: 1 })).success, true);
  assert.equal((await ada.call("auth:refresh", { token: young.sign("ada") })).success, true);
  // Nonsense does not take the keys away.
  writeFileSync(process.env.TIDEGATE_JWKS, "{");
  publish(young);
  assert.ok(await isIn(young.sign("cleo")));
}

/** A new token in band: told in time, the connection goes on beyond the old token's end. */
export async function refreshKeepsTheConnection() {
  const started = Date.now();
  const socket = client("ada", { claims: { expiresIn: 4 }, autoConnect: false });
  const closed = [];
  socket.on("disconnect", (reason) => closed.push(reason));
  const told = next(socket, "auth:expiring");
  socket.connect();
  const { expiresIn } = await told;
  assert.ok(expiresIn > 0 && expiresIn <= 4000, `${expiresIn}`);
  const exp = Math.floor(Date.now() / 1000) + 600;
  assert.deepEqual(await socket.call("auth:refresh", { token: token("bob") }), { success: false, error: "The token is of another user" });
  assert.deepEqual(await socket.call("auth:refresh", { token: token("ada", { tenant: "acme" }) }), { success: false, error: "The token is of another user" });
  assert.deepEqual(await socket.call("auth:refresh", { token: token("ada", { secret: "x".repeat(40) }) }), { success: false, error: "Invalid token" });
  assert.deepEqual(await socket.call("auth:refresh", { token: token("ada", { expiresIn: -1 }) }), { success: false, error: "Token expired" });
  for (const nothing of [{}, { token: 7 }, { token: "" }]) assert.deepEqual(await socket.call("auth:refresh", nothing), { success: false, error: "Authentication token required" });
  assert.deepEqual(await socket.call("auth:refresh", { token: token("ada", { exp }) }), { success: true, expiresAt: exp * 1000 });
  // The token of the handshake is over by then, and nobody is parted for it.
  await until(() => Date.now() > started + 6000, "the old token's end");
  assert.deepEqual(closed, []);
  assert.equal((await socket.call("room:join", { room: "quay" })).success, true);
  assert.equal(socket.of("auth:expired").length, 0);
  assert.equal(socket.of("auth:expiring").length, 1);
  // Grants are those of the new token.
  assert.equal((await socket.call("auth:refresh", { token: token("ada", { permissions: ["room:a:*"] }) })).success, true);
  assert.equal((await socket.call("room:join", { room: "b" })).success, false);
}

/** The close code and the packets, as they are on the wire. */
function raw(given, query = "", namespace = "") {
  const socket = new WebSocket(`${settings.url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket${query}`);
  const packets = [];
  const closed = new Promise((resolve) => socket.on("close", (code) => resolve(code)));
  socket.on("message", (data) => {
    const text = data.toString();
    packets.push(text);
    if (text.startsWith("0")) socket.send(`40${namespace && `${namespace},`}${given === undefined ? "" : JSON.stringify(given)}`);
    if (text === "2") socket.send("3");
  });
  return { socket, packets, closed: within(closed, "the end") };
}

/** Without a new token: `auth:expired`, DISCONNECT, close 4401; a newer token recovers the session. */
export async function theEndOfAToken() {
  const wire = raw({ token: token("ada", { expiresIn: 2 }) });
  assert.equal(await wire.closed, 4401);
  assert.deepEqual(wire.packets.slice(-2), ['42["auth:expired",{"code":"TOKEN_EXPIRED","message":"Token expired"}]', "41"]);
  // The stock client.
  const bob = await joined("bob", "quay");
  const socket = client("ada", { claims: { expiresIn: 3 } });
  const parted = within(new Promise((resolve) => socket.on("disconnect", resolve)), "the disconnect");
  await next(socket, "connect");
  assert.equal((await socket.call("room:join", { room: "quay" })).success, true);
  // Its offset, for the recovery.
  await bob.call("room:send", { room: "quay", payload: 1 });
  await until(() => socket.payloads().length === 1, "a message");
  assert.equal(await parted, "io server disconnect");
  assert.equal(socket.of("auth:expired").length, 1);
  await bob.call("room:send", { room: "quay", payload: 2 });
  socket.auth = { token: token("ada") };
  socket.connect();
  await next(socket, "connect");
  assert.equal(socket.recovered, true);
  await until(() => socket.payloads().length === 2, "what was missed");
}

/** Over polling, and as an event stream. */
export async function theEndOfATokenElsewhere() {
  const socket = client("ada", { transports: ["polling"], claims: { expiresIn: 2 } });
  const parted = within(new Promise((resolve) => socket.on("disconnect", resolve)), "the disconnect");
  await next(socket, "connect");
  assert.equal(await parted, "io server disconnect");
  assert.equal(socket.of("auth:expired").length, 1);
  const streams = await Promise.all(["/realtime/rooms/quay/events", "/realtime/events?room=quay&room=pier"].map((path) =>
    stream(path, { headers: { authorization: `Bearer ${token("ada", { expiresIn: 2 })}` } })));
  for (const events of streams) {
    await within(events.closed, "the stream's end");
    assert.deepEqual(events.events.map((event) => event.event), ["auth:expired"]);
  }
}

/** Where a token may come from: the packet, the header, the cookie, a ticket; not from the query unless a namespace wants it. */
export async function whereTokensComeFrom() {
  const open = (auth, extraHeaders) => new Promise((resolve) => {
    const socket = client("nobody", { auth, extraHeaders });
    socket.once("connection:established", () => resolve("in"));
    socket.once("connect_error", (error) => resolve(error.message));
  });
  const [good, bad] = [token("ada"), token("ada", { secret: "y".repeat(40) })];
  const cookie = `a=b; tidegate_token=${good}`;
  assert.equal(await open({}, { Authorization: `Bearer ${good}` }), "in");
  assert.equal(await open({}, { Cookie: cookie }), "in");
  assert.equal(await open({}, { Cookie: cookie, Origin: settings.url }), "in");
  assert.equal(await open({}, { Cookie: cookie, Origin: "https://evil.example" }), "Authentication token required", "a page elsewhere does not act as the user");
  assert.equal(await open({ token: bad }, { Authorization: `Bearer ${good}` }), "Invalid token", "the packet's token counts first");
  assert.equal(await open({}, { Authorization: `Bearer ${bad}`, Cookie: cookie }), "Invalid token", "then the header's");
  assert.equal(await open({ token: "" }, { Cookie: cookie }), "in");
  assert.equal(await open({}), "Authentication token required");
  const wire = raw(undefined, `&token=${good}`);
  await until(() => wire.packets.some((packet) => packet.startsWith("44")), "a refusal");
  assert.ok(wire.packets.at(-1).includes("Authentication token required"), wire.packets.at(-1));
  wire.socket.close();
  // The chat API does take it.
  const chat = raw(undefined, `&token=${good}`, "/ws/chat");
  await until(() => chat.packets.some((packet) => packet.startsWith('40/ws/chat,{"sid"')), "the way in");
  chat.socket.close();
  const bearer = { headers: { authorization: `Bearer ${good}` }, method: "POST" };
  const { json, status } = await request("/realtime/tickets", bearer);
  assert.equal(status, 201);
  assert.equal(await open({ ticket: json.ticket }), "in");
  assert.equal(await open({ ticket: json.ticket }), "Invalid token", "a ticket is good once");
  // Tickets that nobody uses are not given without end.
  let last;
  for (let count = 0; count < 30 && last?.status !== 429; count += 1) last = await request("/realtime/tickets", bearer);
  assert.equal(last.status, 429);
  assert.ok(Number(last.headers.get("retry-after")) > 0);
  const other = await request("/realtime/tickets", { headers: { authorization: `Bearer ${token("bob")}` }, method: "POST" });
  assert.equal(other.status, 201, "another user's business");
}
