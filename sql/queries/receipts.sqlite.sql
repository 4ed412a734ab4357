-- Queries that serve many members at once, who come as one JSON text.

-- name: read
-- Move read cursors forward, never back and not beyond their rooms: [room, user, seq]. What is read was delivered.
-- Those that moved, with the size of their rooms. LIMIT: one row a member.
UPDATE room_members
SET read_seq = wanted.seq,
    read_count = MAX(room_members.read_count, COALESCE((
        SELECT messages.count_in_room FROM messages
        WHERE messages.room_id = wanted.room_id AND messages.seq <= wanted.seq
        ORDER BY messages.seq DESC LIMIT 1
    ), 0)),
    read_at = :now,
    delivered_at = CASE WHEN room_members.delivered_seq < wanted.seq THEN :now ELSE room_members.delivered_at END,
    delivered_seq = MAX(room_members.delivered_seq, wanted.seq)
FROM (
    SELECT mark.value ->> 0 AS room_id, mark.value ->> 1 AS user_id, MIN(mark.value ->> 2, rooms.last_seq) AS seq
    FROM json_each(:marks) AS mark JOIN rooms ON rooms.id = mark.value ->> 0
    WHERE rooms.deleted_at IS NULL
) AS wanted
WHERE room_members.room_id = wanted.room_id AND room_members.user_id = wanted.user_id
  AND room_members.read_seq < wanted.seq
RETURNING room_id, user_id, read_seq, (SELECT rooms.member_count FROM rooms WHERE rooms.id = room_id);

-- name: deliver
-- Move delivered cursors forward in rooms that are not too large (0: in all): [room, user, seq]. Those that moved.
-- LIMIT: one row a member.
UPDATE room_members
SET delivered_seq = wanted.seq, delivered_at = :now
FROM (
    SELECT mark.value ->> 0 AS room_id, mark.value ->> 1 AS user_id, MIN(mark.value ->> 2, rooms.last_seq) AS seq
    FROM json_each(:marks) AS mark JOIN rooms ON rooms.id = mark.value ->> 0
    WHERE rooms.deleted_at IS NULL AND (:max_members = 0 OR rooms.member_count <= :max_members)
) AS wanted
WHERE room_members.room_id = wanted.room_id AND room_members.user_id = wanted.user_id
  AND room_members.delivered_seq < wanted.seq
RETURNING room_id, user_id, delivered_seq;

-- name: readers
-- The read cursors of many rooms, of each those that moved last. LIMIT: one row a room.
SELECT wanted.value, (
    SELECT json_group_array(json_array(reader.user_id, reader.read_seq))
    FROM (
        SELECT room_members.user_id, room_members.read_seq FROM room_members
        WHERE room_members.room_id = wanted.value AND room_members.read_at IS NOT NULL
        ORDER BY room_members.read_at DESC LIMIT :limit
    ) AS reader
)
FROM json_each(:rooms) AS wanted;
