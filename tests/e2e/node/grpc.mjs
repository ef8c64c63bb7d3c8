// A gRPC server, and a client of it that calls through a gateway. Prints the server's port; reads the gateway's port and the
// file of its authority; prints "done", or what went wrong.
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { Metadata, Server, ServerCredentials, credentials, makeClientConstructor, status } from "@grpc/grpc-js";
import assert from "node:assert/strict";

const text = { serialize: (value) => Buffer.from(value), deserialize: (bytes) => bytes.toString() };
const method = (name, responseStream) => ({ path: `/tide.Harbour/${name}`, requestStream: false, responseStream, requestSerialize: text.serialize, requestDeserialize: text.deserialize, responseSerialize: text.serialize, responseDeserialize: text.deserialize });
const service = { echo: method("Echo", false), count: method("Count", true), fail: method("Fail", false) };

const server = new Server();
server.addService(service, {
  echo: (call, done) => {
    const trailers = new Metadata();
    trailers.set("x-trailer", "behind");
    done(null, call.request, trailers);
  },
  count: (call) => {
    for (let n = 0; n < Number(call.request); n++) call.write(`${n}`);
    call.end();
  },
  fail: (call, done) => done({ code: status.FAILED_PRECONDITION, details: "the tide is out" }),
});
const port = await new Promise((done, fail) => server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, port) => (error ? fail(error) : done(port))));
console.log(port);

const [gateway, ca] = await new Promise((done) => createInterface({ input: process.stdin }).once("line", (line) => done(line.split(" "))));
const Client = makeClientConstructor(service, "Harbour");
const client = new Client(`localhost:${gateway}`, credentials.createSsl(readFileSync(ca)));
const unary = (name, request) => new Promise((done) => {
  const got = {};
  const call = client[name](request, (error, value) => Object.assign(got, { error, value }));
  call.on("status", (status) => done(Object.assign(got, { status })));
});
try {
  const echo = await unary("echo", "hello");
  assert.equal(echo.value, "hello");
  assert.deepEqual(echo.status.metadata.get("x-trailer"), ["behind"]);
  const large = "tide".repeat(500_000);
  assert.equal((await unary("echo", large)).value, large);
  const counted = await new Promise((done, fail) => {
    const seen = [];
    client.count("1000").on("data", (value) => seen.push(value)).on("end", () => done(seen)).on("error", fail);
  });
  assert.equal(counted.length, 1000);
  const failed = await unary("fail", "now");
  assert.equal(failed.status.code, status.FAILED_PRECONDITION);
  assert.equal(failed.status.details, "the tide is out");
  const many = await Promise.all(Array.from({ length: 200 }, (_, n) => unary("echo", `${n}`)));
  assert.deepEqual(many.map((it) => it.value), Array.from({ length: 200 }, (_, n) => `${n}`));
  console.log("done");
} catch (error) {
  console.log(`failed: ${error.message.split("\n").join(" ")}`);
}
process.exit();
