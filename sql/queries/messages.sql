-- Messages and the other durable events of a room, by seq.

-- name: before
-- The newest messages below a seq, newest first.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.room_id = :room_id AND messages.seq < :before
ORDER BY messages.seq DESC LIMIT :limit OFFSET :offset;

-- name: after
-- The oldest messages above a seq and below another, oldest first.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at
FROM messages JOIN users ON users.id = messages.sender_id
WHERE messages.room_id = :room_id AND messages.seq > :after AND messages.seq < :before
ORDER BY messages.seq LIMIT :limit;

-- name: events_after
-- The events of a room that are not messages, above a seq, oldest first.
SELECT seq, kind, body FROM room_events WHERE room_id = :room_id AND seq > :after ORDER BY seq LIMIT :limit;

-- name: seq_of
-- Where a message stands in its room.
SELECT seq FROM messages WHERE id = :id AND room_id = :room_id LIMIT 1;
