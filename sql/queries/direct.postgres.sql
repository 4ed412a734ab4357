-- Queries that serve many conversations at once, which come as one JSON text.

-- name: newest_of_others
-- The newest messages of many conversations that others wrote, each from behind a seq.
SELECT messages.id
FROM json_array_elements(:stretches) AS wanted
JOIN messages ON messages.room_id = wanted ->> 0 AND messages.seq > (wanted ->> 1)::bigint
WHERE messages.sender_id <> :user_id
ORDER BY messages.id DESC LIMIT :limit;
