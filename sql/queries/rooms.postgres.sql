-- Queries that serve many at once, whose keys come as one JSON text.

-- name: of_users
-- Every room of many users. LIMIT: limits.rooms_per_user bounds the rows of each.
SELECT room_members.user_id, rooms.id, rooms.name, rooms.kind, room_members.role, rooms.last_seq,
       room_members.read_seq, rooms.message_count - room_members.read_count
FROM json_array_elements_text(:users) AS wanted (id)
JOIN room_members ON room_members.user_id = wanted.id
JOIN rooms ON rooms.id = room_members.room_id
WHERE rooms.deleted_at IS NULL
ORDER BY rooms.id;

-- name: last_seqs
-- The newest seq of many rooms, also of deleted ones, so that a lost last event is found. LIMIT: one row a room.
SELECT rooms.id, rooms.last_seq FROM json_array_elements_text(:rooms) AS wanted (id) JOIN rooms ON rooms.id = wanted.id;

-- name: kinds
-- How many of many rooms are of each kind. LIMIT: there are three kinds.
SELECT rooms.kind, COUNT(*) FROM json_array_elements_text(:rooms) AS wanted (id) JOIN rooms ON rooms.id = wanted.id
WHERE rooms.deleted_at IS NULL
GROUP BY rooms.kind;

-- name: counts_of_users
-- How many rooms each of many users is in; direct conversations do not count. LIMIT: one row a user.
SELECT room_members.user_id, COUNT(*)
FROM json_array_elements_text(:users) AS wanted (id)
JOIN room_members ON room_members.user_id = wanted.id
JOIN rooms ON rooms.id = room_members.room_id
WHERE rooms.kind <> 'direct' AND rooms.deleted_at IS NULL
GROUP BY room_members.user_id;
