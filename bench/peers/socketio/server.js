'use strict';
// The fifth design as Socket.IO's documentation teaches it: a middleware that authenticates, rooms, acknowledgements,
// `io.to(room).emit`; a pg Pool, jsonwebtoken. Environment: PORT, DATABASE_URL, JWT_SECRET. README.md says what is left out.

const { createServer } = require('node:http');
const { randomUUID } = require('node:crypto');
const jwt = require('jsonwebtoken');
const { Pool } = require('pg');
const { Server } = require('socket.io');

const pool = new Pool({ connectionString: process.env.DATABASE_URL });
const server = createServer();
const io = new Server(server, { maxHttpBufferSize: 65536 });
const lastSeqs = new Map(); // roomId -> number of its last message

io.use(async (socket, next) => {
  try {
    const claims = jwt.verify(socket.handshake.auth.token, process.env.JWT_SECRET, { algorithms: ['HS256'] });
    const { rows } = await pool.query(
      `SELECT u.username, r.id AS "roomId", r.name,
              (SELECT coalesce(max(seq), 0)::int FROM messages WHERE room_id = r.id) AS "lastSeq"
         FROM users u
         LEFT JOIN room_members m ON m.user_id = u.id
         LEFT JOIN rooms r ON r.id = m.room_id
        WHERE u.id = $1`,
      [claims.sub],
    );
    if (rows.length === 0) return next(new Error('unauthenticated'));
    socket.data = { id: claims.sub, name: rows[0].username, rooms: rows.filter((row) => row.roomId !== null) };
    next();
  } catch (error) {
    next(error);
  }
});

io.on('connection', (socket) => {
  for (const { roomId, lastSeq } of socket.data.rooms) {
    if (!lastSeqs.has(roomId)) lastSeqs.set(roomId, lastSeq);
    socket.join(roomId);
  }
  socket.emit('rooms', socket.data.rooms);

  socket.on('ping_me', (callback) => callback({ time: new Date().toISOString() }));

  socket.on('send_message', async ({ roomId, content, clientMessageId }, callback) => {
    if (typeof content !== 'string' || content.trim() === '' || content.length > 10000) {
      return callback({ error: 'bad_message', message: 'content must be 1 to 10000 characters' });
    }
    if (!socket.rooms.has(roomId)) return callback({ error: 'not_a_member', message: 'You are not in this room' });
    const message = {
      id: randomUUID(),
      roomId,
      seq: lastSeqs.get(roomId) + 1,
      senderId: socket.data.id,
      senderName: socket.data.name,
      messageType: 'text',
      content,
      createdAt: new Date().toISOString(),
      clientMessageId,
    };
    lastSeqs.set(roomId, message.seq);
    try {
      await pool.query(
        `INSERT INTO messages (id, room_id, seq, sender_id, content, client_message_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)`,
        [message.id, roomId, message.seq, message.senderId, content, clientMessageId, message.createdAt],
      );
    } catch (error) {
      return callback({ error: 'internal', message: error.message });
    }
    callback({ messageId: message.id, roomId, seq: message.seq, createdAt: message.createdAt, clientMessageId });
    io.to(roomId).emit('new_message', message);
  });
});

server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log(`listening on ${process.env.PORT}`));
process.on('SIGTERM', () => process.exit(0));
