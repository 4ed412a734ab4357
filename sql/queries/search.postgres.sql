-- The same where it is PostgreSQL's own, and queries that serve many at once, whose keys come as one JSON text.

-- name: lock
-- One node at a time reads into the index. The number is chatd's own. LIMIT: one row.
SELECT CASE WHEN pg_try_advisory_xact_lock(7017104326482) THEN 1 ELSE 0 END;

-- name: bound
-- No statement of this transaction takes longer. LIMIT: one row.
SELECT set_config('statement_timeout', :timeout_ms, true);

-- name: changed
-- Messages that are in the index and to be read again; those that somebody is changing at this moment, later.
SELECT search_changes.room_id, messages.deleted_at, search_rooms.number, messages.seq, messages.sender_id,
       messages.created_at, messages.content
FROM search_changes
JOIN search_rooms ON search_rooms.room_id = search_changes.room_id AND search_rooms.indexed_seq >= search_changes.seq
JOIN messages ON messages.room_id = search_changes.room_id AND messages.seq = search_changes.seq
LIMIT :limit FOR SHARE OF messages SKIP LOCKED;

-- name: remove
-- Messages leave the index, as [number, seq].
DELETE FROM search_messages
USING json_array_elements(:places) AS gone
WHERE room_number = (gone ->> 0)::bigint AND seq = (gone ->> 1)::bigint;

-- name: forget_changes
DELETE FROM search_changes
USING json_array_elements(:places) AS done
WHERE room_id = done ->> 0 AND seq = (done ->> 1)::bigint;

-- name: add_rooms
INSERT INTO search_rooms (room_id)
SELECT rooms.id FROM json_array_elements_text(:rooms) AS wanted (id) JOIN rooms ON rooms.id = wanted.id
WHERE NOT EXISTS (SELECT FROM search_rooms WHERE search_rooms.room_id = rooms.id)
ON CONFLICT DO NOTHING;

-- name: positions
-- How far the index has read rooms (nothing: it does not know them), and how far there is something to read. LIMIT: one
-- row a room.
SELECT rooms.id, search_rooms.number, search_rooms.indexed_seq, rooms.last_seq
FROM json_array_elements_text(:rooms) AS wanted (id)
JOIN rooms ON rooms.id = wanted.id
LEFT JOIN search_rooms ON search_rooms.room_id = rooms.id;

-- name: unread
-- The messages of stretches of rooms, each [number, room, behind, up to]. LIMIT: a stretch has an end.
SELECT (stretch ->> 0)::bigint, messages.seq, messages.sender_id, messages.created_at, messages.content
FROM json_array_elements(:stretches) AS stretch
JOIN messages ON messages.room_id = stretch ->> 1 AND messages.seq > (stretch ->> 2)::bigint
              AND messages.seq <= (stretch ->> 3)::bigint
WHERE messages.deleted_at IS NULL;

-- name: add
-- Messages come into the index, as [number, seq, time, words].
INSERT INTO search_messages (room_number, seq, created_at, words)
SELECT (entry ->> 0)::bigint, (entry ->> 1)::bigint, (entry ->> 2)::bigint, (entry ->> 3)::tsvector
FROM json_array_elements(:entries) AS entry;

-- name: advance
-- How far the index has read rooms from now on, as [number, seq].
UPDATE search_rooms SET indexed_seq = (head ->> 1)::bigint
FROM json_array_elements(:heads) AS head
WHERE search_rooms.number = (head ->> 0)::bigint;

-- name: matches
-- The newest matches, the rooms being words of the query.
SELECT room_number, seq FROM search_messages
WHERE words @@ CAST(:query AS tsquery)
ORDER BY created_at DESC LIMIT :limit;

-- name: found
-- The newest of what stands at places of rooms, [room, seq]; a message that was deleted stands nowhere.
WITH newest AS (
    SELECT messages.id FROM json_array_elements(:places) AS place
    JOIN messages ON messages.room_id = place ->> 0 AND messages.seq = (place ->> 1)::bigint
    WHERE messages.deleted_at IS NULL
    ORDER BY messages.id DESC LIMIT :limit
)
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.created_at, messages.edited_at, substr(messages.content, 1, CAST(:characters AS integer))
FROM newest
JOIN messages ON messages.id = newest.id
JOIN users ON users.id = messages.sender_id;
