// A graceful restart under many stock clients: how far apart they come back, and that nobody misses anything.
// `TIDEGATE_CLIENTS=5000 cargo nextest run -p tidegate-e2e graceful_restart --no-capture` is the measurement.
import { assert, connected, range, server, settings, token, until, within } from "./lib.mjs";
import { io } from "socket.io-client";

const CLIENTS = Number(process.env.TIDEGATE_CLIENTS ?? 300);
const ROOMS = 20;
/** Connections opened at once: as browsers would, not all in one instant. */
const AT_ONCE = 50;
const WAIT_MS = 120_000;

const percentile = (sorted, share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];

function spread(times) {
  const sorted = times.toSorted((a, b) => a - b).map((time) => time - Math.min(...times));
  return { p50: percentile(sorted, 0.5), p90: percentile(sorted, 0.9), last: sorted.at(-1) };
}

/** A stock client with the options of its documentation, but for the token. */
async function member(n) {
  const room = `wave:${n % ROOMS}`;
  const socket = io(settings.url, { auth: { token: token(`u${n}`) }, transports: ["websocket"], forceNew: true, timeout: 20_000 });
  const state = { socket, room, numbers: [], asked: null, left: null, back: null, recovered: null };
  socket.on("room:message", ({ payload }) => state.numbers.push(payload.n));
  socket.on("system:restart", ({ reconnectIn }) => (state.asked = reconnectIn));
  await within(new Promise((resolve, reject) => { socket.once("connect", resolve); socket.once("connect_error", reject); }), `client ${n}`, WAIT_MS);
  const ack = await socket.timeout(WAIT_MS).emitWithAck("room:join", { room });
  assert.equal(ack.success, true, JSON.stringify(ack));
  socket.on("disconnect", () => (state.left ??= Date.now()));
  socket.on("connect", () => { state.back ??= Date.now(); state.recovered = socket.recovered; });
  return state;
}

export async function wave() {
  const members = [];
  for (let from = 0; from < CLIENTS; from += AT_ONCE) {
    members.push(...(await Promise.all(range(Math.min(AT_ONCE, CLIENTS - from), from).map(member))));
  }
  const sender = await connected("sender", { reconnection: true, reconnectionDelay: 100, reconnectionDelayMax: 200 });
  for (const n of range(ROOMS)) assert.equal((await sender.call("room:join", { room: `wave:${n}` })).success, true);
  members.push({ socket: sender });
  const acknowledged = range(ROOMS).map(() => []);
  let sending = true;
  const sent = (async () => {
    for (let n = 0; sending; n++) {
      const room = n % ROOMS;
      const persistent = n % 2 === 0;
      if (!sender.connected) { await new Promise((resolve) => setTimeout(resolve, 10)); continue; }
      try {
        const ack = await sender.timeout(5_000).emitWithAck("room:send", { room: `wave:${room}`, payload: { n }, persistent });
        if (ack.success) acknowledged[room].push(n);
      } catch { /* not acknowledged: nothing was promised */ }
    }
  })();
  await until(() => acknowledged.every((numbers) => numbers.length >= 3), "messages before the restart");
  const before = Date.now();
  await server("term");
  await server("wait");
  const { url } = await server("start");
  const up = Date.now();
  for (const { socket } of members) socket.io.uri = url;
  const clients = members.filter((one) => one.room);
  await until(() => clients.every((one) => one.back), "everybody to be back", WAIT_MS);
  const soFar = acknowledged.map((numbers) => numbers.length);
  await until(() => acknowledged.every((numbers, room) => numbers.length >= soFar[room] + 3), "messages after the restart");
  sending = false;
  await sent;
  const has = (one) => acknowledged[Number(one.room.slice(5))].every((n) => one.numbers.includes(n));
  await until(() => clients.every(has), "every acknowledged message at every member", WAIT_MS);
  const report = {
    clients: clients.length,
    acknowledged: acknowledged.flat().length,
    told: clients.filter((one) => one.asked !== null).length,
    recovered: clients.filter((one) => one.recovered).length,
    missing: clients.filter((one) => !has(one)).length,
    repeated: clients.filter((one) => new Set(one.numbers).size !== one.numbers.length).length,
    reordered: clients.filter((one) => one.numbers.some((n, index) => index > 0 && n < one.numbers[index - 1])).length,
    downMs: up - before,
    leftMs: spread(clients.map((one) => one.left)),
    backMs: spread(clients.map((one) => one.back)),
  };
  assert.equal(report.told, clients.length, "everybody is told");
  assert.equal(report.recovered, clients.length, "everybody recovers");
  assert.equal(report.repeated + report.reordered, 0, JSON.stringify(report));
  for (const { socket } of clients) socket.disconnect();
  return report;
}
