// The official suites' cases against the example `conformance`, and against the reference servers, which shows that the
// cases are right.
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { atEnd, settings, within } from "./lib.mjs";
import { endpoint, engineCases, runCases } from "./engine_cases.mjs";
import { socketCases } from "./socket_cases.mjs";

/** The reference servers, in a process of their own, as a server is to its clients. */
async function reference() {
  const node = spawn(process.execPath, ["reference.mjs"], { stdio: ["ignore", "pipe", "inherit"] });
  atEnd(() => node.kill());
  const { value } = await within(createInterface({ input: node.stdout })[Symbol.asyncIterator]().next(), "the reference server");
  return `http://127.0.0.1:${value}`;
}

const engine = (url, how) => runCases("Engine.IO", engineCases(endpoint(url, "/engine.io/", how)));
const socket = (url, how) => runCases("Socket.IO", socketCases(endpoint(url, "/socket.io/", how)));

export const engineSuite = () => engine(settings.url);
export const socketSuite = () => socket(settings.url);
export const engineSuiteOnNode = async () => engine(await reference(), { exactly: false });
export const socketSuiteOnNode = async () => socket(await reference(), { exactly: false });
