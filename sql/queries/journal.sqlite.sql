-- The journal's queries: each serves a whole batch, which comes and goes as one JSON text, so that a commit is a
-- handful of calls whatever its size (every call lets go of Python's interpreter lock and has to win it back).

-- name: heads
-- Where the batch's rooms are: [id, kind, last_seq, message_count, member_count, max_members, slow_mode_s, standing_seq],
-- and what was stored before under its [sender, client message id] pairs. LIMIT: the batch's rooms, and one row a pair.
SELECT (
    SELECT json_group_array(json_array(rooms.id, rooms.kind, rooms.last_seq, rooms.message_count, rooms.member_count,
                                       rooms.max_members, rooms.slow_mode_s, rooms.standing_seq))
    FROM rooms
    WHERE rooms.id IN (SELECT value FROM json_each(:rooms)) AND rooms.deleted_at IS NULL
), (
    SELECT json_group_array(json_array(messages.sender_id, messages.client_message_id, messages.id, messages.room_id,
                                       messages.seq, messages.created_at, messages.request_hash))
    FROM json_each(:keys) AS key
    JOIN messages ON messages.sender_id = key.value ->> 0 AND messages.client_message_id = key.value ->> 1
);

-- name: standings
-- How the batch's [room, user] pairs stand: [room, user, role, muted_until, posted_at, banned_at]. LIMIT: one row a pair.
SELECT json_group_array(json_array(key.value ->> 0, key.value ->> 1, room_members.role, room_members.muted_until,
                                   room_members.posted_at, room_bans.banned_at))
FROM json_each(:keys) AS key
LEFT JOIN room_members ON room_members.room_id = key.value ->> 0 AND room_members.user_id = key.value ->> 1
LEFT JOIN room_bans ON room_bans.room_id = key.value ->> 0 AND room_bans.user_id = key.value ->> 1;

-- name: add_messages
INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to, metadata,
                      client_message_id, request_hash, created_at, file_id, attachment)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
       value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13
FROM json_each(:messages);

-- name: add_events
INSERT INTO room_events (room_id, seq, kind, body, created_at, message_id)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5 FROM json_each(:events);

-- name: advance_rooms
UPDATE rooms
SET last_seq = head.value ->> 1, message_count = head.value ->> 2, member_count = head.value ->> 3,
    standing_seq = head.value ->> 4
FROM json_each(:heads) AS head
WHERE rooms.id = head.value ->> 0;

-- name: add_members
-- A new member has read everything up to joining.
INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq, read_seq, read_count, delivered_seq)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 4, value ->> 5, value ->> 4
FROM json_each(:members);

-- name: remove_members
DELETE FROM room_members
WHERE (room_id, user_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:members));

-- name: note_posts
-- When members last sent a message, as [room, user, time], in rooms with a slow mode.
UPDATE room_members SET posted_at = post.value ->> 2
FROM json_each(:posts) AS post
WHERE room_members.room_id = post.value ->> 0 AND room_members.user_id = post.value ->> 1;
