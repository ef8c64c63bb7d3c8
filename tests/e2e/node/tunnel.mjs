// A real `ws` server and clients of it, for tests of the gateway between the two. Says the server's port, is told the
// gateway's address, and then does what the first argument says.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { WebSocket, WebSocketServer } from "ws";

const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate: { threshold: 0 } });
const ends = [];
server.on("connection", (socket) => {
  socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  ends.push(once(socket, "close"));
});
await once(server, "listening");
console.log(server.address().port);

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const { value: gateway } = await lines.next();

async function connect(options) {
  const socket = new WebSocket(`ws://${gateway}/`, options);
  await once(socket, "open");
  return socket;
}

async function echo(socket, data) {
  const answer = once(socket, "message");
  socket.send(data);
  const [received, isBinary] = await answer;
  assert.equal(isBinary, typeof data !== "string");
  assert.ok(Buffer.from(data).equals(received));
}

const scenarios = {
  async messages() {
    for (const options of [{ perMessageDeflate: false }, { perMessageDeflate: { threshold: 0 } }]) {
      const socket = await connect(options);
      assert.equal(socket.extensions.includes("permessage-deflate"), Boolean(options.perMessageDeflate));
      for (const size of [0, 1, 125, 126, 70_000, 1_000_000]) {
        await echo(socket, "é".repeat(size));
        await echo(socket, Buffer.alloc(size, 7));
      }
      const answer = once(socket, "message");
      socket.send("in ", { fin: false });
      socket.ping("between");
      socket.send("fragments", { fin: true });
      assert.equal(String((await answer)[0]), "in fragments");
      const closed = once(socket, "close");
      socket.close(4001, "done");
      assert.equal((await closed)[0], 4001);
      assert.equal((await ends.shift())[0], 4001);
    }
  },
  // Ends when the gateway wants it to.
  async ended() {
    const socket = await connect({});
    await echo(socket, "hello");
    const closed = once(socket, "close");
    console.log("ready");
    const [code, reason] = await closed;
    const [told] = await ends.shift();
    console.log(`${code} ${reason} ${told}`);
  },
};

await scenarios[process.argv[2]]();
console.log("done");
process.exit(0);
