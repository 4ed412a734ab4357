-- The same where it is SQLite's own, and queries that serve many at once, whose keys come as one JSON text.

-- name: lock
-- Nothing: a transaction that writes is the only one. LIMIT: one row.
SELECT 1;

-- name: bound
-- Nothing: each statement is bounded by what it looks at, and the time is looked at in between. LIMIT: one row.
SELECT :timeout_ms;

-- name: changed
-- Messages that are in the index and to be read again.
SELECT search_changes.room_id, messages.deleted_at, search_rooms.number, messages.seq, messages.sender_id,
       messages.created_at, messages.content
FROM search_changes
JOIN search_rooms ON search_rooms.room_id = search_changes.room_id AND search_rooms.indexed_seq >= search_changes.seq
JOIN messages ON messages.room_id = search_changes.room_id AND messages.seq = search_changes.seq
LIMIT :limit;

-- name: remove
-- Messages leave the index, as [number, seq].
DELETE FROM search_index
WHERE rowid IN (SELECT (gone.value ->> 0) * 68719476736 + (gone.value ->> 1) FROM json_each(:places) AS gone);

-- name: forget_changes
DELETE FROM search_changes
WHERE (room_id, seq) IN (SELECT done.value ->> 0, done.value ->> 1 FROM json_each(:places) AS done);

-- name: add_rooms
INSERT OR IGNORE INTO search_rooms (room_id)
SELECT rooms.id FROM json_each(:rooms) AS wanted JOIN rooms ON rooms.id = wanted.value;

-- name: positions
-- How far the index has read rooms (nothing: it does not know them), and how far there is something to read. LIMIT: one
-- row a room.
SELECT rooms.id, search_rooms.number, search_rooms.indexed_seq, rooms.last_seq
FROM json_each(:rooms) AS wanted
JOIN rooms ON rooms.id = wanted.value
LEFT JOIN search_rooms ON search_rooms.room_id = rooms.id;

-- name: unread
-- The messages of stretches of rooms, each [number, room, behind, up to]. LIMIT: a stretch has an end.
SELECT stretch.value ->> 0, messages.seq, messages.sender_id, messages.created_at, messages.content
FROM json_each(:stretches) AS stretch
JOIN messages ON messages.room_id = stretch.value ->> 1 AND messages.seq > stretch.value ->> 2
              AND messages.seq <= stretch.value ->> 3
WHERE messages.deleted_at IS NULL;

-- name: add
-- Messages come into the index, as [number, seq, time, words, sender].
INSERT INTO search_index (rowid, words, sender)
SELECT (entry.value ->> 0) * 68719476736 + (entry.value ->> 1), entry.value ->> 3, entry.value ->> 4
FROM json_each(:entries) AS entry;

-- name: advance
-- How far the index has read rooms from now on, as [number, seq].
UPDATE search_rooms SET indexed_seq = head.value ->> 1
FROM json_each(:heads) AS head
WHERE search_rooms.number = head.value ->> 0;

-- name: matches
-- The newest matches of each stretch of the index, [number, from, before].
SELECT stretch.value ->> 0, place.value % 68719476736
FROM json_each(:stretches) AS stretch
JOIN json_each((
    SELECT json_group_array(match.id) FROM (
        SELECT search_index.rowid AS id FROM search_index
        WHERE search_index MATCH :query
          AND search_index.rowid >= (stretch.value ->> 0) * 68719476736 + (stretch.value ->> 1)
          AND search_index.rowid < (stretch.value ->> 0) * 68719476736 + (stretch.value ->> 2)
        ORDER BY search_index.rowid DESC LIMIT :limit
    ) AS match
)) AS place;

-- name: found
-- The newest of what stands at places of rooms, [room, seq]; a message that was deleted stands nowhere.
WITH newest AS (
    SELECT messages.id FROM json_each(:places) AS place
    JOIN messages ON messages.room_id = place.value ->> 0 AND messages.seq = place.value ->> 1
    WHERE messages.deleted_at IS NULL
    ORDER BY messages.id DESC LIMIT :limit
)
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.created_at, messages.edited_at, substr(messages.content, 1, :characters)
FROM newest
JOIN messages ON messages.id = newest.id
JOIN users ON users.id = messages.sender_id;
