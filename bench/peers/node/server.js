'use strict';
// The first design as its libraries' documentation teaches it: ws, a pg Pool, jsonwebtoken.
// Environment: PORT, DATABASE_URL, JWT_SECRET. See README.md for what is left out.

const { randomUUID } = require('node:crypto');
const jwt = require('jsonwebtoken');
const { Pool } = require('pg');
const { WebSocketServer } = require('ws');

const AUTH_TIMEOUT_MS = 5000;
const HEARTBEAT_MS = 20000;

const pool = new Pool({ connectionString: process.env.DATABASE_URL });
const rooms = new Map(); // roomId -> { lastSeq, sockets: Set }, of the rooms with someone connected

function send(socket, event) {
  socket.send(JSON.stringify(event));
}

function refuse(socket, code, message) {
  send(socket, { type: 'error', code, message });
}

async function authenticate(socket, { token }) {
  let claims;
  try {
    claims = jwt.verify(token, process.env.JWT_SECRET, { algorithms: ['HS256'] });
  } catch (error) {
    send(socket, { type: 'auth_error', code: 'unauthenticated', message: error.message });
    socket.close(4501, 'authentication failed');
    return;
  }
  const { rows } = await pool.query(
    `SELECT u.username, r.id AS "roomId", r.name,
            (SELECT coalesce(max(seq), 0)::int FROM messages WHERE room_id = r.id) AS "lastSeq"
       FROM users u
       LEFT JOIN room_members m ON m.user_id = u.id
       LEFT JOIN rooms r ON r.id = m.room_id
      WHERE u.id = $1`,
    [claims.sub],
  );
  if (rows.length === 0) {
    socket.close(4501, 'authentication failed');
    return;
  }
  clearTimeout(socket.authTimeout);
  socket.user = { id: claims.sub, name: rows[0].username };
  socket.rooms = rows.filter((row) => row.roomId !== null);
  for (const { roomId, lastSeq } of socket.rooms) {
    if (!rooms.has(roomId)) rooms.set(roomId, { lastSeq, sockets: new Set() });
    rooms.get(roomId).sockets.add(socket);
  }
  send(socket, {
    type: 'authenticated',
    userId: socket.user.id,
    username: socket.user.name,
    rooms: socket.rooms.map(({ roomId, name, lastSeq }) => ({ roomId, name, lastSeq })),
  });
}

async function sendMessage(socket, { roomId, content, clientMessageId }) {
  if (!socket.user) return refuse(socket, 'unauthenticated', 'Authenticate first');
  if (typeof content !== 'string' || content.trim() === '' || content.length > 10000) {
    return refuse(socket, 'bad_message', 'content must be 1 to 10000 characters');
  }
  const room = rooms.get(roomId);
  if (!room || !room.sockets.has(socket)) return refuse(socket, 'not_a_member', 'You are not in this room');

  const message = {
    id: randomUUID(),
    roomId,
    seq: ++room.lastSeq,
    senderId: socket.user.id,
    senderName: socket.user.name,
    messageType: 'text',
    content,
    createdAt: new Date().toISOString(),
    clientMessageId,
  };
  await pool.query(
    `INSERT INTO messages (id, room_id, seq, sender_id, content, client_message_id, created_at)
     VALUES ($1, $2, $3, $4, $5, $6, $7)`,
    [message.id, roomId, message.seq, message.senderId, content, clientMessageId, message.createdAt],
  );
  send(socket, {
    type: 'message_ack',
    messageId: message.id,
    roomId,
    seq: message.seq,
    createdAt: message.createdAt,
    clientMessageId,
    duplicate: false,
  });
  const event = JSON.stringify({ type: 'new_message', message });
  for (const member of room.sockets) member.send(event);
}

const handlers = {
  authenticate,
  send_message: sendMessage,
  ping: (socket) => send(socket, { type: 'pong', time: new Date().toISOString() }),
};

const server = new WebSocketServer({ host: '127.0.0.1', port: Number(process.env.PORT), maxPayload: 65536 });

server.on('connection', (socket) => {
  socket.isAlive = true;
  socket.rooms = [];
  socket.authTimeout = setTimeout(() => socket.close(4502, 'authentication timeout'), AUTH_TIMEOUT_MS);
  socket.on('pong', () => {
    socket.isAlive = true;
  });
  socket.on('error', () => socket.terminate());
  socket.on('close', () => {
    clearTimeout(socket.authTimeout);
    for (const { roomId } of socket.rooms) {
      const room = rooms.get(roomId);
      room.sockets.delete(socket);
      if (room.sockets.size === 0) rooms.delete(roomId);
    }
  });
  socket.on('message', async (data, isBinary) => {
    if (isBinary) return socket.close(1003, 'text only');
    try {
      const message = JSON.parse(data);
      const handler = Object.hasOwn(handlers, message.type) ? handlers[message.type] : null;
      if (!handler) return refuse(socket, 'bad_message', 'Unknown type');
      await handler(socket, message);
    } catch (error) {
      refuse(socket, error instanceof SyntaxError ? 'bad_message' : 'internal', error.message);
    }
  });
});

setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.isAlive) {
      socket.terminate();
      continue;
    }
    socket.isAlive = false;
    socket.ping();
  }
}, HEARTBEAT_MS);

server.on('listening', () => console.log(`listening on ${process.env.PORT}`));
process.on('SIGTERM', () => process.exit(0));
