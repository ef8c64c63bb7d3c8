// A plain WebSocket echo, frame by frame: what the Autobahn test suite asks of a server (RFC 6455), by a client that can
// send what no good client sends.
import { randomBytes } from "node:crypto";
import net from "node:net";
import { assert, atEnd, range, settings, within } from "./lib.mjs";

const MAX_MESSAGE = 1_000_000;
const CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10;

function frame(opcode, payload = "", { fin = true, rsv = 0, masked = true } = {}) {
  const bytes = Buffer.from(payload);
  const mask = randomBytes(4);
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode];
  const flag = masked ? 0x80 : 0;
  if (bytes.length < 126) head.push(flag | bytes.length);
  else if (bytes.length < 65_536) head.push(flag | 126, bytes.length >> 8, bytes.length & 0xff);
  else {
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(bytes.length));
    head.push(flag | 127, ...length);
  }
  if (!masked) return Buffer.concat([Buffer.from(head), bytes]);
  return Buffer.concat([Buffer.from(head), mask, bytes.map((byte, index) => byte ^ mask[index % 4])]);
}

const closing = (code, reason = "") => {
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(code);
  return frame(CLOSE, Buffer.concat([payload, Buffer.from(reason)]));
};

/** A connection whose frames are read one by one; `next()` is `{ fin, opcode, payload }`, or null at the end. */
async function open() {
  const { hostname, port } = new URL(settings.url);
  const socket = net.connect({ host: hostname, port: Number(port), noDelay: true });
  atEnd(() => socket.destroy());
  let bytes = Buffer.alloc(0), ended = false, wake = () => {};
  socket.on("data", (chunk) => { bytes = Buffer.concat([bytes, chunk]); wake(); });
  for (const event of ["end", "close", "error"]) socket.on(event, () => { ended = true; wake(); });
  const until = (ready, what) => within((async () => {
    for (;;) {
      const found = ready();
      if (found !== undefined) return found;
      if (ended) return null;
      await new Promise((resolve) => { wake = resolve; });
    }
  })(), what);
  socket.write(`GET /echo HTTP/1.1\r\nHost: ${hostname}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${randomBytes(16).toString("base64")}\r\n\r\n`);
  const head = await until(() => {
    const end = bytes.indexOf("\r\n\r\n");
    if (end < 0) return undefined;
    const head = bytes.subarray(0, end).toString();
    bytes = bytes.subarray(end + 4);
    return head;
  }, "the answer to the upgrade");
  assert.match(head, /^HTTP\/1.1 101 /);
  const next = () => until(() => {
    if (bytes.length < 2) return undefined;
    assert.equal(bytes[1] & 0x80, 0, "a server does not mask");
    let length = bytes[1] & 0x7f, at = 2;
    if (length === 126) { if (bytes.length < 4) return undefined; length = bytes.readUInt16BE(2); at = 4; }
    else if (length === 127) { if (bytes.length < 10) return undefined; length = Number(bytes.readBigUInt64BE(2)); at = 10; }
    if (bytes.length < at + length) return undefined;
    const found = { fin: bytes[0] >= 0x80, opcode: bytes[0] & 0x0f, payload: Buffer.from(bytes.subarray(at, at + length)) };
    bytes = bytes.subarray(at + length);
    return found;
  }, "a frame");
  return { socket, next, send: (...frames) => socket.write(Buffer.concat(frames)) };
}

async function echoes(connection, opcode, payload) {
  const got = await connection.next();
  assert.deepEqual([got.fin, got.opcode, got.payload.length], [true, opcode, Buffer.byteLength(payload)]);
  assert.ok(got.payload.equals(Buffer.from(payload)));
}

/** The server ends the connection with this code (null: without one) and nothing else. */
async function ends(connection, code) {
  const got = await connection.next();
  assert.equal(got?.opcode, CLOSE);
  assert.equal(got.payload.length === 0 ? null : got.payload.readUInt16BE(0), code);
  assert.equal(await connection.next(), null);
}

/** What is sent is answered with nothing but the end. */
async function refused(code, ...frames) {
  const connection = await open();
  connection.send(...frames);
  await ends(connection, code);
}

export async function messages() {
  const connection = await open();
  for (const size of [0, 1, 125, 126, 127, 128, 65_535, 65_536, 300_000, MAX_MESSAGE]) {
    for (const [opcode, payload] of [[TEXT, "*".repeat(size)], [BINARY, randomBytes(size)]]) {
      connection.send(frame(opcode, payload));
      await echoes(connection, opcode, payload);
    }
  }
  // Byte by byte, and many in one segment.
  for (const byte of frame(TEXT, "chopped ä\u{1F30A}")) connection.socket.write(Buffer.of(byte));
  await echoes(connection, TEXT, "chopped ä\u{1F30A}");
  connection.send(...range(200).map((n) => frame(TEXT, `message ${n}`)));
  for (const n of range(200)) await echoes(connection, TEXT, `message ${n}`);
}

export async function fragments() {
  const connection = await open();
  connection.send(frame(TEXT, "one ", { fin: false }), frame(CONTINUATION, "", { fin: false }), frame(CONTINUATION, "two"));
  await echoes(connection, TEXT, "one two");
  // Control frames between the fragments are answered at once; text may be cut inside of a character.
  const wave = Buffer.from("\u{1F30A}");
  connection.send(frame(TEXT, wave.subarray(0, 1), { fin: false }), frame(PING, "now"), frame(CONTINUATION, wave.subarray(1)));
  await echoes(connection, PONG, "now");
  await echoes(connection, TEXT, "\u{1F30A}");
  const bytes = randomBytes(200_000);
  connection.send(...range(20).map((n) => frame(n === 0 ? BINARY : CONTINUATION, bytes.subarray(n * 10_000, (n + 1) * 10_000), { fin: n === 19 })));
  await echoes(connection, BINARY, bytes);
  await refused(1002, frame(CONTINUATION, "of nothing"));
  await refused(1002, frame(TEXT, "one", { fin: false }), frame(TEXT, "two"));
  await refused(1002, frame(TEXT, "one", { fin: false }), frame(BINARY, "two", { fin: false }));
}

export async function pings() {
  const connection = await open();
  for (const payload of ["", "payload", Buffer.from([0, 255, 254]), "*".repeat(125)]) {
    connection.send(frame(PING, payload));
    await echoes(connection, PONG, payload);
  }
  connection.send(frame(PONG, "nobody asked"), ...range(10).map((n) => frame(PING, `${n}`)));
  for (const n of range(10)) await echoes(connection, PONG, `${n}`);
  await refused(1002, frame(PING, "*".repeat(126)));
  await refused(1002, frame(PING, "", { fin: false }));
}

export async function closes() {
  for (const code of [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]) await refused(code, closing(code));
  await refused(1000, closing(1000, "with a reason ä"));
  await refused(null, frame(CLOSE));
  for (const code of [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535]) await refused(1002, closing(code));
  await refused(1002, frame(CLOSE, "x"));
  await refused(1002, frame(CLOSE, Buffer.concat([Buffer.from([3, 232]), Buffer.alloc(124, 42)])));
  await refused(1007, closing(1000, Buffer.from([0xce, 0xba, 0xed, 0xa0, 0x80])));
  // What comes behind a close is not looked at.
  await refused(1000, closing(1000), frame(TEXT, "too late"), frame(PING, "too late"));
}

export async function refusals() {
  for (const rsv of [1, 2, 3, 4, 7]) await refused(1002, frame(TEXT, "reserved", { rsv }));
  for (const opcode of [3, 4, 7, 11, 15]) await refused(1002, frame(opcode, ""));
  await refused(1002, frame(TEXT, "not masked", { masked: false }));
  for (const bad of [[0xff], [0xc0, 0xaf], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xe2, 0x82]]) await refused(1007, frame(TEXT, Buffer.from(bad)));
  await refused(1007, frame(TEXT, "good", { fin: false }), frame(CONTINUATION, Buffer.from([0xff])));
  await refused(1009, frame(BINARY, Buffer.alloc(MAX_MESSAGE + 1)));
  await refused(1009, frame(BINARY, Buffer.alloc(MAX_MESSAGE), { fin: false }), frame(CONTINUATION, "x"));
  // Others are served all the same.
  const connection = await open();
  connection.send(frame(TEXT, "still here"));
  await echoes(connection, TEXT, "still here");
}
