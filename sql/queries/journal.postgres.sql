-- The journal's queries: each serves a whole batch, which comes and goes as one JSON text.

-- name: heads
-- Where the batch's rooms are: [id, kind, last_seq, message_count, member_count, max_members, slow_mode_s, standing_seq],
-- locked until the commit, in one order, so that nodes do not block each other; and what was stored before under its [sender, client message id]
-- pairs, as of before the locks: what another node stores while they are waited for is found by the unique key.
-- LIMIT: the batch's rooms, and one row a pair at most.
SELECT (
    SELECT COALESCE(json_agg(json_build_array(room.id, room.kind, room.last_seq, room.message_count, room.member_count,
                                              room.max_members, room.slow_mode_s, room.standing_seq)), '[]')
    FROM (
        SELECT id, kind, last_seq, message_count, member_count, max_members, slow_mode_s, standing_seq FROM rooms
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

-- name: lock
-- The batch's rooms, locked until the commit, in one order. LIMIT: the batch's rooms.
SELECT id FROM rooms WHERE id IN (SELECT json_array_elements_text(:rooms)) ORDER BY id FOR NO KEY UPDATE;

-- name: post
-- Store a batch of messages at once, the database giving the numbers: no lock ever waits for a node. Where each room was
-- before, and whether something is in the way (a key that was stored before, a room that is gone or has a slow mode,
-- somebody who may not send, or a change of who may while the locks were waited for): nothing is stored then.
-- What another node stores while the locks are waited for is found by the unique key. LIMIT: the batch's rooms.
WITH entry AS MATERIALIZED (
    SELECT entry ->> 0 AS id, entry ->> 1 AS room_id, (entry ->> 2)::bigint AS place, entry ->> 3 AS sender_id,
           entry ->> 4 AS message_type, entry ->> 5 AS content, entry ->> 6 AS reply_to, entry ->> 7 AS metadata,
           entry ->> 8 AS client_message_id, entry ->> 9 AS request_hash, entry ->> 10 AS file_id,
           entry ->> 11 AS attachment
    FROM json_array_elements(:messages) AS entry
), room AS MATERIALIZED (
    SELECT id, kind, last_seq, message_count, member_count, max_members, slow_mode_s, standing_seq FROM rooms
    WHERE id IN (SELECT room_id FROM entry) AND deleted_at IS NULL
    ORDER BY id FOR NO KEY UPDATE
), obstacle AS MATERIALIZED (
    SELECT messages.id FROM entry
    JOIN messages ON messages.sender_id = entry.sender_id AND messages.client_message_id = entry.client_message_id
    UNION ALL
    SELECT entry.id FROM entry WHERE NOT EXISTS (SELECT FROM room WHERE room.id = entry.room_id)
    UNION ALL
    SELECT room.id FROM room JOIN rooms AS before ON before.id = room.id
    WHERE room.slow_mode_s > 0 OR room.standing_seq <> before.standing_seq
    UNION ALL
    SELECT entry.id FROM entry WHERE NOT EXISTS (
        SELECT FROM room_members
        WHERE room_members.room_id = entry.room_id AND room_members.user_id = entry.sender_id
          AND room_members.role <> 'readonly' AND COALESCE(room_members.muted_until, 0) <= :now
    )
), stored AS (
    INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to, metadata,
                          client_message_id, request_hash, created_at, file_id, attachment)
    SELECT entry.id, entry.room_id, room.last_seq + entry.place, room.message_count + entry.place, entry.sender_id,
           entry.message_type, entry.content, entry.reply_to, entry.metadata, entry.client_message_id,
           entry.request_hash, :now, entry.file_id, entry.attachment
    FROM entry JOIN room ON room.id = entry.room_id
    WHERE NOT EXISTS (SELECT FROM obstacle)
), advanced AS (
    UPDATE rooms
    SET last_seq = room.last_seq + share.messages, message_count = room.message_count + share.messages
    FROM room JOIN (SELECT room_id, COUNT(*) AS messages FROM entry GROUP BY room_id) AS share ON share.room_id = room.id
    WHERE rooms.id = room.id AND NOT EXISTS (SELECT FROM obstacle)
)
SELECT COALESCE(json_agg(json_build_array(id, kind, last_seq, message_count, member_count, max_members, slow_mode_s,
                                          standing_seq)), '[]'),
       EXISTS (SELECT FROM obstacle)
FROM room;

-- name: standings
-- How the batch's [room, user] pairs stand: [room, user, role, muted_until, posted_at, banned_at]. Asked behind `heads`,
-- whose locks keep it true. LIMIT: one row a pair.
SELECT COALESCE(json_agg(json_build_array(key ->> 0, key ->> 1, room_members.role, room_members.muted_until,
                                          room_members.posted_at, room_bans.banned_at)), '[]')
FROM json_array_elements(:keys) AS key
LEFT JOIN room_members ON room_members.room_id = key ->> 0 AND room_members.user_id = key ->> 1
LEFT JOIN room_bans ON room_bans.room_id = key ->> 0 AND room_bans.user_id = key ->> 1;

-- name: add_messages
INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to, metadata,
                      client_message_id, request_hash, created_at, file_id, attachment)
SELECT entry ->> 0, entry ->> 1, (entry ->> 2)::bigint, (entry ->> 3)::bigint, entry ->> 4, entry ->> 5, entry ->> 6, entry ->> 7,
       entry ->> 8, entry ->> 9, entry ->> 10, (entry ->> 11)::bigint, entry ->> 12, entry ->> 13
FROM json_array_elements(:messages) AS entry;

-- name: add_events
INSERT INTO room_events (room_id, seq, kind, body, created_at, message_id)
SELECT entry ->> 0, (entry ->> 1)::bigint, entry ->> 2, entry ->> 3, (entry ->> 4)::bigint, entry ->> 5
FROM json_array_elements(:events) AS entry;

-- name: advance_rooms
UPDATE rooms
SET last_seq = (head ->> 1)::bigint, message_count = (head ->> 2)::bigint, member_count = (head ->> 3)::integer,
    standing_seq = (head ->> 4)::bigint
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

-- name: note_posts
-- When members last sent a message, as [room, user, time], in rooms with a slow mode.
UPDATE room_members SET posted_at = (post ->> 2)::bigint
FROM json_array_elements(:posts) AS post
WHERE room_members.room_id = post ->> 0 AND room_members.user_id = post ->> 1;
