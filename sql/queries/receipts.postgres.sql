-- Queries that serve many members at once, who come as one JSON text.

-- name: read
-- Move read cursors forward, never back and not beyond their rooms: [room, user, seq]. What is read was delivered.
-- Those that moved, with the size of their rooms; locked in one order, so that nodes do not block each other.
-- LIMIT: one row a member.
WITH wanted AS MATERIALIZED (
    SELECT room_members.room_id, room_members.user_id, LEAST((mark ->> 2)::bigint, rooms.last_seq) AS seq,
           rooms.member_count
    FROM json_array_elements(:marks) AS mark
    JOIN rooms ON rooms.id = mark ->> 0 AND rooms.deleted_at IS NULL
    JOIN room_members ON room_members.room_id = rooms.id AND room_members.user_id = mark ->> 1
    WHERE room_members.read_seq < LEAST((mark ->> 2)::bigint, rooms.last_seq)
    ORDER BY room_members.room_id, room_members.user_id FOR NO KEY UPDATE OF room_members
)
UPDATE room_members
SET read_seq = wanted.seq,
    read_count = GREATEST(room_members.read_count, COALESCE((
        SELECT messages.count_in_room FROM messages
        WHERE messages.room_id = wanted.room_id AND messages.seq <= wanted.seq
        ORDER BY messages.seq DESC LIMIT 1
    ), 0)),
    read_at = :now,
    delivered_at = CASE WHEN room_members.delivered_seq < wanted.seq THEN :now ELSE room_members.delivered_at END,
    delivered_seq = GREATEST(room_members.delivered_seq, wanted.seq)
FROM wanted
WHERE room_members.room_id = wanted.room_id AND room_members.user_id = wanted.user_id
  AND room_members.read_seq < wanted.seq
RETURNING room_members.room_id, room_members.user_id, room_members.read_seq, wanted.member_count;

-- name: deliver
-- Move delivered cursors forward in rooms that are not too large (0: in all): [room, user, seq]. Those that moved; who
-- is in the hands of another statement is left out, so that this one waits for nobody. LIMIT: one row a member.
WITH wanted AS MATERIALIZED (
    SELECT room_members.room_id, room_members.user_id, LEAST((mark ->> 2)::bigint, rooms.last_seq) AS seq
    FROM json_array_elements(:marks) AS mark
    JOIN rooms ON rooms.id = mark ->> 0 AND rooms.deleted_at IS NULL
    JOIN room_members ON room_members.room_id = rooms.id AND room_members.user_id = mark ->> 1
    WHERE room_members.delivered_seq < LEAST((mark ->> 2)::bigint, rooms.last_seq)
      AND (:max_members = 0 OR rooms.member_count <= :max_members)
    FOR NO KEY UPDATE OF room_members SKIP LOCKED
)
UPDATE room_members
SET delivered_seq = wanted.seq, delivered_at = :now
FROM wanted
WHERE room_members.room_id = wanted.room_id AND room_members.user_id = wanted.user_id
  AND room_members.delivered_seq < wanted.seq
RETURNING room_members.room_id, room_members.user_id, room_members.delivered_seq;

-- name: readers
-- The read cursors of many rooms, of each those that moved last. LIMIT: one row a room.
SELECT wanted.id, (
    SELECT COALESCE(json_agg(json_build_array(reader.user_id, reader.read_seq)), '[]')
    FROM (
        SELECT room_members.user_id, room_members.read_seq FROM room_members
        WHERE room_members.room_id = wanted.id AND room_members.read_at IS NOT NULL
        ORDER BY room_members.read_at DESC LIMIT :limit
    ) AS reader
)
FROM json_array_elements_text(:rooms) AS wanted (id);
