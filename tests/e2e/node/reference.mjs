// Engine.IO and Socket.IO on Node, set up as the official suites want it. Prints its port.
import { createServer } from "node:http";
import { attach } from "engine.io";
import { Server } from "socket.io";

const terms = { pingInterval: 300, pingTimeout: 200, maxHttpBufferSize: 1_000_000, destroyUpgrade: false };

const http = createServer();
attach(http, { path: "/engine.io/", ...terms }).on("connection", (socket) => {
  socket.on("message", (data) => socket.send(data));
});

const io = new Server(http, { connectTimeout: 1_000, serveClient: false, ...terms });
const greet = (socket) => socket.emit("auth", socket.handshake.auth);
io.on("connection", (socket) => {
  greet(socket);
  socket.on("message", (...args) => socket.emit("message-back", ...args));
  socket.on("message-with-ack", (...args) => args.pop()(...args));
});
io.of("/custom").on("connection", greet);

http.listen(0, "127.0.0.1", () => console.log(http.address().port));
