-- Direct conversations: rooms of two users, found by their key.

-- name: between
-- Somebody to write to, the room of the two if there is one, who of them blocks the other, and whether a message was
-- stored under a key of the asking user.
SELECT users.id, users.disabled_at, rooms.id, rooms.last_seq,
       EXISTS (SELECT 1 FROM user_blocks WHERE user_blocks.user_id = :user_id AND user_blocks.blocked_id = :other_id),
       EXISTS (SELECT 1 FROM user_blocks WHERE user_blocks.user_id = :other_id AND user_blocks.blocked_id = :user_id),
       EXISTS (SELECT 1 FROM messages WHERE messages.sender_id = :user_id AND messages.client_message_id = :key)
FROM users LEFT JOIN rooms ON rooms.direct_key = :direct_key AND rooms.deleted_at IS NULL
WHERE users.id = :other_id LIMIT 1;

-- name: add
INSERT INTO rooms (id, kind, name, direct_key, created_by, created_at, updated_at, member_count)
VALUES (:id, 'direct', '', :direct_key, :created_by, :now, :now, 2);

-- name: count_unread
-- How many messages of how many conversations the user has not read; who wrote last has read it all. LIMIT: one row.
SELECT CAST(COALESCE(SUM(rooms.message_count - room_members.read_count), 0) AS BIGINT), COUNT(*)
FROM room_members JOIN rooms ON rooms.id = room_members.room_id
WHERE room_members.user_id = :user_id AND rooms.kind = 'direct' AND rooms.deleted_at IS NULL
  AND rooms.message_count > room_members.read_count
  AND :user_id <> (
      SELECT messages.sender_id FROM messages WHERE messages.room_id = rooms.id ORDER BY messages.seq DESC LIMIT 1
  );
