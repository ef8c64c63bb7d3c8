// The same bytes to Node's socket.io and to Tidegate: status, the headers that matter, and bodies must be the same, except
// where a difference is listed with its reason.
import { createServer } from "node:http";
import net from "node:net";
import { Server } from "socket.io";
import { assert, atEnd, settings, token, until, within } from "./lib.mjs";

/** socket.io with its defaults; every event is echoed. */
async function reference() {
  const http = createServer();
  const io = new Server(http, { serveClient: false, upgradeTimeout: 1_000, connectTimeout: 2_000 });
  io.on("connection", (socket) => socket.onAny((...args) => (typeof args.at(-1) === "function" ? args.pop()(...args) : socket.emit(...args))));
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  atEnd(() => { io.close(); http.closeAllConnections(); });
  return http.address().port;
}

/** A connection that sends bytes as they are. */
class Wire {
  constructor(port) {
    this.bytes = Buffer.alloc(0);
    this.ended = false;
    this.socket = net.connect(port, "127.0.0.1");
    this.socket.on("data", (chunk) => { this.bytes = Buffer.concat([this.bytes, chunk]); });
    this.socket.on("error", () => {});
    this.socket.on("close", () => { this.ended = true; });
    atEnd(() => this.socket.destroy());
  }

  send(bytes) { this.socket.write(bytes); return this; }

  /** The next response. A body has a length, or is chunked in one chunk, or there is none. */
  async response() {
    let head;
    await until(() => (head = this.bytes.indexOf("\r\n\r\n")) >= 0 || this.ended, "a response");
    if (head < 0) return { status: 0, headers: {}, body: "closed" };
    const lines = this.bytes.subarray(0, head).toString().split("\r\n");
    const headers = Object.fromEntries(lines.slice(1).map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]));
    const status = Number(lines[0].split(" ")[1]);
    const length = Number(headers["content-length"] ?? 0);
    await until(() => this.ended || this.bytes.length >= head + 4 + length, "a body");
    const chunked = headers["transfer-encoding"] === "chunked";
    if (chunked) await until(() => this.ended || this.bytes.includes("\r\n0\r\n\r\n"), "the last chunk");
    const rest = this.bytes.subarray(head + 4);
    const body = chunked ? rest.subarray(rest.indexOf("\r\n") + 2, rest.indexOf("\r\n0\r\n\r\n")).toString() : rest.subarray(0, length).toString();
    this.bytes = chunked ? Buffer.alloc(0) : rest.subarray(length);
    return { status, headers, body };
  }

  /** All frames until the other side closes, or so many: `text`, `[bytes]`, `close CODE`. */
  async frames(count = Infinity) {
    const seen = [];
    for (;;) {
      let frame;
      await until(() => (frame = parse(this.bytes)) || this.ended, "a frame");
      if (!frame) return [...seen, "end"];
      this.bytes = this.bytes.subarray(frame.size);
      seen.push(frame.says);
      // The other half of the closing handshake, which Node waits for.
      if (frame.opcode === 8) this.socket.end(frameOf(8, frame.payload));
      if (seen.length >= count) return seen;
    }
  }
}

function parse(bytes) {
  if (bytes.length < 2) return null;
  const short = bytes[1] & 0x7f;
  const head = short === 126 ? 4 : short === 127 ? 10 : 2;
  if (bytes.length < head) return null;
  const length = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short;
  if (bytes.length < head + length) return null;
  const payload = bytes.subarray(head, head + length);
  const says = { 1: () => payload.toString(), 2: () => `[${payload.length}]`, 8: () => `close ${length >= 2 ? payload.readUInt16BE() : "without a code"}`, 9: () => "ping", 10: () => `pong ${payload}` }[bytes[0] & 15]();
  return { says, size: head + length, opcode: bytes[0] & 15, payload };
}

const MASK = Buffer.from([1, 2, 3, 4]);
function frameOf(opcode, payload = "", first = 0x80) {
  const data = Buffer.from(payload);
  const head = data.length < 126 ? Buffer.from([first | opcode, 0x80 | data.length]) : Buffer.concat([Buffer.from([first | opcode, 0xfe]), Buffer.from([data.length >> 8, data.length & 255])]);
  return Buffer.concat([head, MASK, data.map((byte, index) => byte ^ MASK[index % 4])]);
}

const head = (method, query, lines = [], path = "/socket.io/") => `${[`${method} ${path}${query} HTTP/1.1`, "Host: localhost", ...lines].join("\r\n")}\r\n\r\n`;
const upgrade = (query, lines = []) => head("GET", query, ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", ...lines]);
const withBody = (query, body, lines = []) => Buffer.concat([Buffer.from(head("POST", query, ["Content-Type: text/plain;charset=UTF-8", `Content-Length: ${Buffer.byteLength(body)}`, ...lines])), Buffer.from(body)]);
const POLL = "?EIO=4&transport=polling";
const WS = "?EIO=4&transport=websocket";

/** One server, and the words in which both are compared. */
function side(port, credential) {
  const open = async () => {
    const { body } = await new Wire(port).send(head("GET", POLL)).response();
    return JSON.parse(body.slice(1)).sid;
  };
  const said = ({ status, headers, body }) => ({ status, type: headers["content-type"] ?? null, body: body.replace(/"sid":"[^"]+"/g, '"sid":"…"') });
  const ask = async (bytes) => said(await new Wire(port).send(bytes).response());
  const websocket = async (query) => {
    const wire = new Wire(port).send(upgrade(query));
    const { status, body } = await wire.response();
    return Object.assign(wire, { opened: status === 101 ? "opened" : `${status} ${body}` });
  };
  const at = (sid) => `${POLL}&sid=${sid}`;
  return {
    open, ask, websocket, at,
    wire: () => new Wire(port),
    said,
    get: (sid, lines) => ask(head("GET", at(sid), lines)),
    post: (sid, body, lines) => ask(withBody(at(sid), body, lines)),
    /** A GET that is known to wait at the server: what comes next is behind it. */
    async waiting(sid) {
      const wire = new Wire(port).send(head("GET", at(sid)));
      // A round trip on another connection does not prove it; the one after the GET on the same server mostly does.
      await this.ask(head("GET", "?EIO=3"));
      await new Promise((resolve) => setTimeout(resolve, 50));
      return { answer: async () => said(await wire.response()), wire };
    },
    connect: `40${credential ? JSON.stringify({ token: credential }) : ""}`,
  };
}

/** Requests without a session. Where Tidegate answers otherwise, what it says instead and why. */
const requests = [
  ["nothing at all", head("GET", "")],
  ["no transport", head("GET", "?EIO=4"), ],
  ["an unknown transport", head("GET", "?EIO=4&transport=tube")],
  ["a transport by the name of a property", head("GET", "?EIO=4&transport=constructor")],
  ["webtransport", head("GET", "?EIO=4&transport=webtransport")],
  ["an unknown transport with a sid", head("GET", "?EIO=4&transport=tube&sid=x")],
  ["an older protocol", head("GET", "?EIO=3&transport=polling")],
  ["no protocol", head("GET", "?transport=polling")],
  ["an unknown protocol", head("GET", "?EIO=5&transport=polling")],
  ["a protocol that is no number", head("GET", "?EIO=four&transport=polling")],
  ["an unknown sid", head("GET", `${POLL}&sid=nosuchsid`)],
  ["a sid by the name of a property", head("GET", `${POLL}&sid=__proto__`)],
  ["an empty sid", head("GET", `${POLL}&sid=`)],
  ["an unknown sid, posted", withBody(`${POLL}&sid=nosuchsid`, "40")],
  ["a handshake by POST", withBody(POLL, "40")],
  ["a handshake by PUT", head("PUT", POLL, ["Content-Length: 0"])],
  ["a handshake by DELETE", head("DELETE", POLL)],
  ["websocket without an upgrade", head("GET", WS)],
  ["a good handshake", head("GET", POLL)],
  ["a good handshake with b64", head("GET", `${POLL}&b64=1`)],
  ["a good handshake with a stamp", head("GET", `${POLL}&t=OuCh`)],
  ["JSONP", head("GET", `${POLL}&j=0`)],
  ["an upgrade with an unknown sid", upgrade(`${WS}&sid=nosuchsid`)],
  ["an upgrade with an unknown transport", upgrade("?EIO=4&transport=tube")],
  ["an upgrade with an older protocol", upgrade("?EIO=3&transport=websocket")],
  ["an upgrade without a protocol", upgrade("?transport=websocket")],
  ["an upgrade that says polling", upgrade(POLL)],
];

/** Dialogues of a session, each with the words that are compared. */
const dialogues = {
  async "a post is taken"({ open, post }) {
    const sid = await open();
    return [await post(sid, "3"), await post(sid, "6")];
  },
  async "a poll after CONNECT"({ open, post, get, connect }) {
    const sid = await open();
    const first = await post(sid, connect);
    const { status, type, body } = await get(sid);
    return [first, status, type, body.startsWith('40{"sid":"…"')];
  },
  async "an unknown packet"({ open, post, get }) { const sid = await open(); return [await post(sid, "9"), await get(sid)]; },
  async "an empty body"({ open, post, get }) { const sid = await open(); return [await post(sid, ""), await get(sid)]; },
  async "a letter"({ open, post, get }) { const sid = await open(); return [await post(sid, "abc"), await get(sid)]; },
  async "a good packet and a bad one"({ open, post, get }) { const sid = await open(); return [await post(sid, "3\x1eabc"), await get(sid)]; },
  async "a ping of the client"({ open, post, get }) { const sid = await open(); return [await post(sid, "2"), await get(sid)]; },
  async "a Socket.IO packet without a type"({ open, post, get }) { const sid = await open(); return [await post(sid, "4"), await get(sid)]; },
  async "an event before CONNECT"({ open, post, get }) { const sid = await open(); return [await post(sid, '42["a"]'), await get(sid)]; },
  async "a close packet"({ open, post, get }) { const sid = await open(); return [await post(sid, "1"), await get(sid)]; },
  async "a close packet with an open poll"({ open, post, get, waiting }) {
    const sid = await open();
    const poll = await waiting(sid);
    return [await post(sid, "1"), await poll.answer(), await get(sid)];
  },
  async "a bad packet with an open poll"({ open, post, get, waiting }) {
    const sid = await open();
    const poll = await waiting(sid);
    await post(sid, "abc");
    return [(await poll.answer()).body, await get(sid)];
  },
  async "a body over the limit"({ open, post, at, ask }) {
    const sid = await open();
    const { status } = await post(sid, `4${"x".repeat(1_000_001)}`);
    return [status, await ask(withBody(at(sid), "3"))];
  },
  async "a body that announces too much"({ open, ask, at }) {
    const sid = await open();
    return [(await ask(Buffer.concat([Buffer.from(head("POST", at(sid), ["Content-Length: 50000000"])), Buffer.alloc(1_100_000, 52)]))).status];
  },
  async "two polls at once"({ open, get, waiting }) {
    const sid = await open();
    const first = await waiting(sid);
    const second = await get(sid);
    return [(await first.answer()).body, second.status, await get(sid)];
  },
  async "a poll that is given up"({ open, get, waiting }) {
    const sid = await open();
    const { wire } = await waiting(sid);
    wire.socket.destroy();
    let answer;
    await until(async () => (answer = await get(sid)).status === 400 || null, "the end of the session");
    return [answer];
  },
  async "a poll by another transport's name"({ open, ask }) {
    const sid = await open();
    return [await ask(head("GET", `${WS}&sid=${sid}`))];
  },
  async "an upgrade with a poll open"({ open, websocket, waiting, get, post }) {
    const sid = await open();
    const poll = await waiting(sid);
    const socket = await websocket(`${WS}&sid=${sid}`);
    socket.send(frameOf(1, "2probe"));
    const answers = [await socket.frames(1), await poll.answer()];
    socket.send(frameOf(1, "5"));
    socket.send(frameOf(9, "there?"));
    answers.push(await socket.frames(1));
    const [late, posted] = [await get(sid), await post(sid, "3")];
    socket.send(frameOf(9, "still?"));
    return [socket.opened, ...answers, late, posted, await socket.frames(1)];
  },
  async "a second websocket after the upgrade"({ open, websocket }) {
    const sid = await open();
    const first = await websocket(`${WS}&sid=${sid}`);
    first.send(frameOf(1, "2probe"));
    await first.frames(1);
    first.send(frameOf(1, "5"));
    first.send(frameOf(9, "a"));
    await first.frames(1);
    const second = await websocket(`${WS}&sid=${sid}`);
    const end = await second.frames();
    first.send(frameOf(9, "b"));
    return [second.opened, end, await first.frames(1)];
  },
  async "a second websocket while the first is probed"({ open, websocket }) {
    const sid = await open();
    const first = await websocket(`${WS}&sid=${sid}`);
    first.send(frameOf(1, "2probe"));
    const pong = await first.frames(1);
    const second = await websocket(`${WS}&sid=${sid}`);
    const end = await second.frames();
    first.send(frameOf(1, "5"));
    first.send(frameOf(9, "b"));
    return [pong, second.opened, end, await first.frames(1)];
  },
  async "another packet instead of the probe"({ open, websocket, post }) {
    const sid = await open();
    const socket = await websocket(`${WS}&sid=${sid}`);
    socket.send(frameOf(1, "2other"));
    return [socket.opened, await socket.frames(), await post(sid, "3")];
  },
  async "a message instead of the upgrade's last packet"({ open, websocket, post }) {
    const sid = await open();
    const socket = await websocket(`${WS}&sid=${sid}`);
    socket.send(frameOf(1, "2probe"));
    const pong = await socket.frames(1);
    socket.send(frameOf(1, "4hello"));
    return [pong, await socket.frames(), await post(sid, "3")];
  },
  async "a ping frame while probing"({ open, websocket }) {
    const sid = await open();
    const socket = await websocket(`${WS}&sid=${sid}`);
    socket.send(Buffer.concat([frameOf(9, "a"), frameOf(1, "2probe")]));
    return [await socket.frames(2)];
  },
  async "a close frame while probing"({ open, websocket, post }) {
    const sid = await open();
    const socket = await websocket(`${WS}&sid=${sid}`);
    socket.send(Buffer.concat([frameOf(1, "2probe"), frameOf(8, Buffer.from([0x0f, 0xa0]))]));
    return [await socket.frames(), await post(sid, "3")];
  },
  async "an upgrade that is never finished"({ open, websocket, post }) {
    const sid = await open();
    const socket = await websocket(`${WS}&sid=${sid}`);
    socket.send(frameOf(1, "2probe"));
    return [await socket.frames(), await post(sid, "3")];
  },
  async "an event posted before the upgrade is answered after it, once"({ open, websocket, post, get, connect }) {
    const sid = await open();
    await post(sid, connect);
    let body = "";
    while (!body.includes("40{")) body = (await get(sid)).body;
    const socket = await websocket(`${WS}&sid=${sid}`);
    socket.send(frameOf(1, "2probe"));
    const pong = await socket.frames(1);
    await post(sid, '427["query:rooms",{}]');
    socket.send(frameOf(1, "5"));
    const seen = [];
    while (!seen.some((text) => text.startsWith("437"))) seen.push(...await socket.frames(1));
    socket.send(frameOf(9, "b"));
    while (!seen.includes("pong b")) seen.push(...await socket.frames(1));
    return [pong, seen.filter((text) => text.startsWith("43")).map((text) => text.slice(0, 3))];
  },
  async "a websocket that sends nothing"({ websocket }) {
    const socket = await websocket(WS);
    const [open, ...rest] = await socket.frames();
    // Tidegate's close says 1008, Node's says nothing.
    return [socket.opened, open.replace(/"sid":"[^"]+"/, '"sid":"…"'), rest.map((says) => says.split(" ")[0])];
  },
  async "polling that sends nothing"({ open, get }) {
    const sid = await open();
    const { status, body } = await get(sid);
    return [status, body];
  },
  async "a bad packet on a websocket"({ websocket }) {
    const socket = await websocket(WS);
    socket.send(frameOf(1, "abc"));
    return [(await socket.frames()).slice(1).length > 0];
  },
  async "an Engine.IO close on a websocket"({ websocket }) {
    const socket = await websocket(WS);
    await socket.frames(1);
    socket.send(frameOf(1, "1"));
    return [(await socket.frames()).at(-1)];
  },
};

const refusal = (code, message) => ({ status: 400, type: "application/json", body: JSON.stringify({ code, message }) });
const inWords = (body) => ({ status: 400, type: "text/html", body });
/** Node takes the body and closes the session behind its back; the protocol's own suite wants the refusal. */
const refusedAndOver = [refusal(3, "Bad request"), refusal(1, "Session ID unknown")];

/** Where Tidegate answers otherwise, and why. */
const differences = {
  // The version decides what the rest means, so it is looked at first.
  "nothing at all": refusal(5, "Unsupported protocol version"),
  // Node opens a WebSocket and closes it at once.
  "an upgrade with an older protocol": inWords("Unsupported protocol version"),
  "an upgrade without a protocol": inWords("Unsupported protocol version"),
  // Node opens a WebSocket for it, whatever it says.
  "an upgrade that says polling": refusal(3, "Bad request"),
  // Node's engine.io still knows JSONP, which no client of this protocol version has.
  "JSONP": refusal(3, "Bad request"),
  "an unknown packet": refusedAndOver,
  "an empty body": refusedAndOver,
  "a letter": refusedAndOver,
  "a good packet and a bad one": refusedAndOver,
  "a ping of the client": refusedAndOver,
  "a Socket.IO packet without a type": refusedAndOver,
  "an event before CONNECT": refusedAndOver,
};

export async function sideBySide() {
  const node = side(await reference());
  const own = side(Number(new URL(settings.url).port), token("ada"));
  const wrong = [];
  const compare = (what, expected, seen) => {
    const wanted = differences[what] ?? expected;
    if (what in differences) assert.notDeepEqual(expected, wanted, `${what} is no difference any more`);
    try { assert.deepEqual(seen, wanted); } catch { wrong.push(`${what}\n  Node:     ${JSON.stringify(expected)}\n  Tidegate: ${JSON.stringify(seen)}`); }
  };
  for (const [what, bytes] of requests) compare(what, await node.ask(bytes), await own.ask(bytes));
  for (const [what, dialogue] of Object.entries(dialogues)) {
    const [expected, seen] = await Promise.all([dialogue(node), dialogue(own)].map((one) => within(one, what, 10_000).catch((error) => [String(error)])));
    compare(what, expected, seen);
  }
  if (wrong.length > 0) throw new Error(`${wrong.length} answers differ:\n${wrong.join("\n")}`);
}
