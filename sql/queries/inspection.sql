-- What a checker of the promises reads: rooms and all that has a number in them, also what nobody is shown any more.

-- name: rooms
SELECT id, kind, last_seq, message_count, member_count FROM rooms WHERE id > :after ORDER BY id LIMIT :limit;

-- name: room
SELECT id, kind, last_seq, message_count, member_count FROM rooms WHERE id = :id LIMIT 1;

-- name: members
SELECT room_id, user_id FROM room_members WHERE room_id = :room_id AND user_id > :after ORDER BY user_id LIMIT :limit;

-- name: rooms_of
SELECT room_id FROM room_members WHERE user_id = :user_id AND room_id > :after ORDER BY room_id LIMIT :limit;

-- name: messages
-- By seq and id, so that a damaged table which has a number twice is read to its end as well.
SELECT id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to, metadata, client_message_id, created_at,
       edited_at, deleted_at
FROM messages
WHERE room_id = :room_id AND (seq, id) > (:after, :after_id)
ORDER BY seq, id LIMIT :limit;

-- name: events
SELECT room_id, seq, kind, body, message_id FROM room_events WHERE room_id = :room_id AND seq > :after ORDER BY seq LIMIT :limit;

-- name: memberships
-- When people came into a room and left it, or all left it because it was deleted.
SELECT room_id, seq, kind, body, message_id FROM room_events
WHERE room_id = :room_id AND seq > :after AND kind IN ('user_joined', 'user_left', 'room_deleted')
ORDER BY seq LIMIT :limit;

-- name: message_numbers
SELECT seq, id, count_in_room FROM messages
WHERE room_id = :room_id AND (seq, id) > (:after, :after_id)
ORDER BY seq, id LIMIT :limit;

-- name: event_numbers
SELECT seq FROM room_events WHERE room_id = :room_id AND seq > :after ORDER BY seq LIMIT :limit;

-- name: count_members
-- LIMIT: one row.
SELECT COUNT(*) FROM room_members WHERE room_id = :room_id;

-- name: lost_rooms
-- Rooms that have numbers and do not exist.
SELECT room_id FROM messages WHERE room_id NOT IN (SELECT id FROM rooms)
UNION
SELECT room_id FROM room_events WHERE room_id NOT IN (SELECT id FROM rooms)
ORDER BY room_id LIMIT :limit;

-- name: repeated_keys
-- Messages that are stored more than once.
SELECT sender_id, client_message_id, COUNT(*) FROM messages
WHERE client_message_id IS NOT NULL
GROUP BY sender_id, client_message_id HAVING COUNT(*) > 1
ORDER BY sender_id, client_message_id LIMIT :limit;

-- name: of_key
-- Where the message of a sender is that came under a key.
SELECT room_id, seq, id FROM messages WHERE sender_id = :sender_id AND client_message_id = :key
ORDER BY room_id, seq LIMIT :limit;
