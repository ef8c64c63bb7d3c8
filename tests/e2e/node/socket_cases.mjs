// What the official test suite of the Socket.IO protocol (revision 5) asks of a server, each case written anew. The server
// has the namespaces `/` and `/custom` alone: on connect it emits `auth` with the auth payload; in `/`, `message` comes
// back as `message-back`, `message-with-ack` is acknowledged with its arguments.
import { assert, keysOf } from "./lib.mjs";
import { closed, message, ping, sharedCases } from "./engine_cases.mjs";

/** A WebSocket that is connected to `/`. */
async function connected(to) {
  const socket = to.websocket();
  await message(socket); // Engine.IO's handshake
  socket.send("40");
  await message(socket); // CONNECT
  await message(socket); // auth
  return socket;
}

/** Listens for several messages at once; pings do not count. */
function messages(socket, count) {
  const found = [];
  return new Promise((resolve) => {
    socket.addEventListener("message", function listen({ data }) {
      if (data === "2") return;
      if (found.push(data) < count) return;
      socket.removeEventListener("message", listen);
      resolve(found);
    });
  });
}

const connect = (to, packet, prefix, auth) => async () => {
  const socket = to.websocket();
  await message(socket);
  socket.send(packet);
  const reply = await message(socket);
  assert.ok(reply.startsWith(prefix), reply);
  const handshake = JSON.parse(reply.slice(prefix.length));
  assert.deepEqual(keysOf(handshake), ["sid"]);
  assert.equal(typeof handshake.sid, "string");
  assert.equal(await message(socket), auth);
};

const closes = (to, packet) => async () => {
  const socket = await connected(to);
  socket.send(packet);
  await closed(socket);
};

const echoes = (to, packet, wanted) => async () => {
  const socket = await connected(to);
  socket.send(packet);
  assert.equal(await message(socket), wanted);
};

const echoesBinary = (to, packet, wanted) => async () => {
  const socket = await connected(to);
  const attachments = [Uint8Array.from([1, 2, 3]), Uint8Array.from([4, 5, 6])];
  socket.send(packet);
  attachments.forEach((bytes) => socket.send(bytes));
  const [text, ...binary] = await messages(socket, 3);
  assert.equal(text, wanted);
  assert.deepEqual(binary.map((bytes) => new Uint8Array(bytes)), attachments);
  socket.close();
};

const two = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}';

export const socketCases = (to) => [
  ...sharedCases(to),
  ["the main namespace lets in", connect(to, "40", "40", '42["auth",{}]')],
  ["the main namespace lets in with a payload", connect(to, '40{"token":"123"}', "40", '42["auth",{"token":"123"}]')],
  ["a custom namespace lets in", connect(to, "40/custom,", "40/custom,", '42/custom,["auth",{}]')],
  ["a custom namespace lets in with a payload", connect(to, '40/custom,{"token":"abc"}', "40/custom,", '42/custom,["auth",{"token":"abc"}]')],
  ["an unknown namespace is refused", async () => {
    const socket = to.websocket();
    await message(socket);
    socket.send("40/random");
    assert.equal(await message(socket), '44/random,{"message":"Invalid namespace"}');
  }],
  ["a handshake that is no packet closes the connection", async () => {
    const socket = to.websocket();
    await message(socket);
    socket.send("4abc");
    await closed(socket);
  }],
  ["a connection without a handshake is closed", () => closed(to.websocket())],
  ["leaving the main namespace leaves the connection open", async () => {
    const socket = await connected(to);
    socket.send("41");
    assert.equal(await ping(socket), "2");
  }],
  ["leaving a custom namespace leaves the main one", async () => {
    const socket = await connected(to);
    assert.equal(await ping(socket), "2");
    socket.send("40/custom");
    await message(socket);
    await message(socket);
    socket.send("41/custom");
    socket.send('42["message","message to main namespace"]');
    assert.equal(await message(socket), '42["message-back","message to main namespace"]');
  }],
  ["an event", echoes(to, '42["message",1,"2",{"3":[true]}]', '42["message-back",1,"2",{"3":[true]}]')],
  ["a binary event", echoesBinary(to, `452-["message",${two}]`, `452-["message-back",${two}]`)],
  ["an event with an ack", echoes(to, '42456["message-with-ack",1,"2",{"3":[false]}]', '43456[1,"2",{"3":[false]}]')],
  ["a binary event with an ack", echoesBinary(to, `452-789["message-with-ack",${two}]`, `462-789[${two}]`)],
  ["an unknown packet type closes the connection", closes(to, "4abc")],
  ["a payload that is no array closes the connection", closes(to, "42{}")],
  ["an ack id that is no number closes the connection", closes(to, '42abc["message-with-ack",1,"2",{"3":[false]}]')],
];
