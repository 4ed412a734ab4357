-- The journal's queries: each serves a whole batch, which comes and goes as one JSON text.

-- name: heads
-- Where the batch's rooms are: [id, kind, last_seq, message_count, member_count, max_members], locked until the commit,
-- in one order, so that nodes do not block each other; and what was stored before under its [sender, client message id]
-- pairs, as of before the locks: what another node stores while they are waited for is found by the unique key.
-- LIMIT: the batch's rooms, and one row a pair at most.
SELECT (
    SELECT COALESCE(json_agg(json_build_array(room.id, room.kind, room.last_seq, room.message_count, room.member_count,
                                              room.max_members)), '[]')
    FROM (
        SELECT id, kind, last_seq, message_count, member_count, max_members FROM rooms
        WHERE id IN (SELECT json_array_elements_text(:rooms)) AND deleted_at IS NULL
        ORDER BY id FOR NO KEY UPDATE
    ) AS room
), (
    SELECT COALESCE(json_agg(json_build_array(messages.sender_id, messages.client_message_id, messages.id,
                                              messages.room_id, messages.seq, messages.created_at,
                                              messages.request_hash)), '[]')
    FROM json_array_elements(:keys) AS key
    JOIN messages ON messages.sender_id = key ->> 0 AND messages.client_message_id = key ->> 1
);

-- name: memberships
-- Which of the batch's [room, user] pairs are members, and which are banned: [room, user, role, ban]. LIMIT: one row a pair.
SELECT COALESCE(json_agg(json_build_array(key ->> 0, key ->> 1, room_members.role, room_bans.banned_at)), '[]')
FROM json_array_elements(:keys) AS key
LEFT JOIN room_members ON room_members.room_id = key ->> 0 AND room_members.user_id = key ->> 1
LEFT JOIN room_bans ON room_bans.room_id = key ->> 0 AND room_bans.user_id = key ->> 1;

-- name: add_messages
INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to, metadata,
                      client_message_id, request_hash, created_at)
SELECT entry ->> 0, entry ->> 1, (entry ->> 2)::bigint, (entry ->> 3)::bigint, entry ->> 4, entry ->> 5, entry ->> 6, entry ->> 7,
       entry ->> 8, entry ->> 9, entry ->> 10, (entry ->> 11)::bigint
FROM json_array_elements(:messages) AS entry;

-- name: add_events
INSERT INTO room_events (room_id, seq, kind, body, created_at)
SELECT entry ->> 0, (entry ->> 1)::bigint, entry ->> 2, entry ->> 3, (entry ->> 4)::bigint
FROM json_array_elements(:events) AS entry;

-- name: advance_rooms
UPDATE rooms
SET last_seq = (head ->> 1)::bigint, message_count = (head ->> 2)::bigint, member_count = (head ->> 3)::integer
FROM json_array_elements(:heads) AS head
WHERE rooms.id = head ->> 0;

-- name: add_members
-- A new member has read everything up to joining.
INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq, read_seq, read_count, delivered_seq)
SELECT entry ->> 0, entry ->> 1, entry ->> 2, (entry ->> 3)::bigint, (entry ->> 4)::bigint, (entry ->> 4)::bigint,
       (entry ->> 5)::bigint, (entry ->> 4)::bigint
FROM json_array_elements(:members) AS entry;

-- name: remove_members
DELETE FROM room_members
WHERE (room_id, user_id) IN (SELECT entry ->> 0, entry ->> 1 FROM json_array_elements(:members) AS entry);
