// The peer: the rooms API on stock socket.io, in one process with the in-memory adapter and its defaults (no
// compression; connection state recovery only with RECOVERY=memory or, through the Redis at REDIS_PORT, RECOVERY=redis).
// ADAPTER=pubsub makes several processes one server through the Redis at REDIS_PORT, without recovery; RECOVERY=redis does
// so too. Presence is then each process's own: it is not told to the others.
// It does less than Tidegate does in the same run: no token is verified,
// no history and no replay ring is kept, no metrics are counted. What both do: join and leave rooms, presence of each
// room's members told to the others, room:send to all members with an ack.
import { createServer } from "node:http";
import { Server } from "socket.io";

const port = Number(process.env.PORT ?? 0);
const http = createServer();
const options = { transports: ["websocket", "polling"], serveClient: false };
const recovery = process.env.RECOVERY;
if (recovery) options.connectionStateRecovery = { maxDisconnectionDuration: 120_000 };
if (recovery === "redis") {
  const { createClient } = await import("redis");
  const { createAdapter } = await import("@socket.io/redis-streams-adapter");
  const redis = createClient({ url: `redis://127.0.0.1:${process.env.REDIS_PORT}` });
  redis.on("error", () => {});
  await redis.connect();
  options.adapter = createAdapter(redis);
}
if (process.env.ADAPTER === "pubsub") {
  const { createClient } = await import("redis");
  const { createAdapter } = await import("@socket.io/redis-adapter");
  const publisher = createClient({ url: `redis://127.0.0.1:${process.env.REDIS_PORT}` });
  const subscriber = publisher.duplicate();
  // Without a listener a lost connection to Redis ends the process.
  for (const client of [publisher, subscriber]) client.on("error", () => {});
  await Promise.all([publisher.connect(), subscriber.connect()]);
  options.adapter = createAdapter(publisher, subscriber);
}
const io = new Server(http, options);

/** room → Map(userId → { presence, connections }) */
const presence = new Map();
let users = 0;
let messages = 0;

function enter(room, socket) {
  let members = presence.get(room);
  if (members === undefined) presence.set(room, (members = new Map()));
  const known = members.get(socket.data.userId);
  if (known !== undefined) {
    known.connections += 1;
    return;
  }
  const info = { userId: socket.data.userId, status: "online", lastSeen: Date.now() };
  members.set(socket.data.userId, { info, connections: 1 });
  // In a large room each join would be told to everyone, n² messages; Tidegate batches there, this peer stays silent.
  if (members.size <= 256) socket.to(room).emit("presence:join", { room, user: info });
}

function leave(room, socket) {
  const members = presence.get(room);
  const known = members?.get(socket.data.userId);
  if (known === undefined || --known.connections > 0) return;
  members.delete(socket.data.userId);
  if (members.size === 0) presence.delete(room);
  else if (members.size <= 256) socket.to(room).emit("presence:leave", { room, userId: socket.data.userId });
}

io.on("connection", (socket) => {
  // What a session was, a recovery brings back.
  socket.data.userId ??= `user-${users++}`;
  socket.emit("connection:established", { connectionId: socket.id, tenantId: "default" });

  socket.on("room:join", ({ room }, ack) => {
    if (!socket.rooms.has(room)) {
      socket.join(room);
      enter(room, socket);
    }
    socket.emit("room:joined", { room });
    ack?.({ success: true });
    const members = presence.get(room);
    const listed = [];
    for (const { info } of members.values()) {
      if (listed.push(info) === 256) break;
    }
    socket.emit("presence:update", { room, presence: listed });
  });

  socket.on("room:leave", ({ room }, ack) => {
    if (socket.rooms.has(room)) {
      socket.leave(room);
      leave(room, socket);
    }
    socket.emit("room:left", { room });
    ack?.({ success: true });
  });

  socket.on("room:send", ({ room, payload }, ack) => {
    if (!socket.rooms.has(room)) {
      ack?.({ success: false, error: "NOT_IN_ROOM" });
      return;
    }
    const id = `m-${(messages += 1)}`;
    io.to(room).emit("room:message", { id, room, from: socket.data.userId, payload, timestamp: Date.now() });
    ack?.({ success: true, messageId: id });
  });

  socket.on("disconnecting", () => {
    for (const room of socket.rooms) if (room !== socket.id) leave(room, socket);
  });
});

// Sessions are stored on a clean disconnect only.
process.once("SIGTERM", () => io.close(() => process.exit(0)));

http.listen(port, "127.0.0.1", () => console.log(`listening on 127.0.0.1:${http.address().port}`));
