-- Messages and the other durable events of a room, by seq.

-- name: before
-- The newest messages below a seq, newest first.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.room_id = :room_id AND messages.seq < :before
ORDER BY messages.seq DESC LIMIT :limit OFFSET :offset;

-- name: after
-- The oldest messages above a seq and below another, oldest first.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.room_id = :room_id AND messages.seq > :after AND messages.seq < :before
ORDER BY messages.seq LIMIT :limit;

-- name: events_after
-- The events of a room that are not messages, above a seq, oldest first.
SELECT seq, kind, body, message_id FROM room_events WHERE room_id = :room_id AND seq > :after ORDER BY seq LIMIT :limit;

-- name: seq_of
-- Where a message stands in its room.
SELECT seq FROM messages WHERE id = :id AND room_id = :room_id LIMIT 1;

-- name: is_living
SELECT 1 FROM messages WHERE id = :id AND room_id = :room_id AND deleted_at IS NULL LIMIT 1;

-- name: in_room
-- One message, where it stands in this room.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.id = :id AND messages.room_id = :room_id LIMIT 1;

-- name: whereabouts
-- The room of a message that is not deleted itself, with the role that whoever asks has in it.
SELECT rooms.id, rooms.kind, room_members.role, messages.message_type, messages.deleted_at
FROM messages JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
LEFT JOIN room_members ON room_members.room_id = rooms.id AND room_members.user_id = :user_id
WHERE messages.id = :id LIMIT 1;

-- name: is_stored
-- Whether a message of a sender was stored under a key.
SELECT 1 FROM messages WHERE sender_id = :sender_id AND client_message_id = :key LIMIT 1;

-- name: pinned
-- What is pinned in a room, the newest pin first.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.room_id = :room_id AND messages.pinned_at IS NOT NULL
ORDER BY messages.pinned_at DESC, messages.seq DESC LIMIT :limit OFFSET :offset;

-- name: replies_after
-- The oldest replies to a message above a seq, oldest first.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.reply_to = :id AND messages.room_id = :room_id AND messages.seq > :after
ORDER BY messages.seq LIMIT :limit OFFSET :offset;

-- name: replies_before
-- The newest replies to a message below a seq, newest first.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.reply_to = :id AND messages.room_id = :room_id AND messages.seq < :before
ORDER BY messages.seq DESC LIMIT :limit;
