// A chat server on Socket.IO, with its Redis Streams adapter, as its manual has it. To be measured
// beside Verbatim: it broadcasts, and keeps no message.
//
// PORT and REDIS_URL in the environment; prints one line when it is ready.
"use strict";

const { createServer } = require("node:http");
const { createClient } = require("redis");
const { Server } = require("socket.io");
const { createAdapter } = require("@socket.io/redis-streams-adapter");

async function main() {
  const redis = createClient({ url: process.env.REDIS_URL });
  await redis.connect();

  const http = createServer();
  const io = new Server(http, {
    adapter: createAdapter(redis),
    transports: ["websocket"],
    // Nothing is served but the socket.
    serveClient: false,
  });
  io.on("connection", (socket) => {
    socket.on("join", (room, done) => {
      socket.join(room);
      done();
    });
    socket.on("message", (room, text) => io.to(room).emit("message", text));
  });
  http.listen(Number(process.env.PORT), "127.0.0.1", 4096, () => {
    console.log(`listening on ws://127.0.0.1:${http.address().port}/`);
  });
}

main();
