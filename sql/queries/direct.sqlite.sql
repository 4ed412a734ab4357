-- Queries that serve many conversations at once, which come as one JSON text.

-- name: newest_of_others
-- The newest messages of many conversations that others wrote, each from behind a seq.
SELECT messages.id
FROM json_each(:stretches) AS wanted
JOIN messages ON messages.room_id = wanted.value ->> 0 AND messages.seq > wanted.value ->> 1
WHERE messages.sender_id <> :user_id
ORDER BY messages.id DESC LIMIT :limit;
