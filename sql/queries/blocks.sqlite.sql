-- Queries about many users at once, who come as one JSON text.

-- name: between
-- Those of many users who block a user or are blocked by them. LIMIT: one row a user.
SELECT wanted.value FROM json_each(:others) AS wanted
WHERE EXISTS (SELECT 1 FROM user_blocks WHERE user_id = :user_id AND blocked_id = wanted.value)
   OR EXISTS (SELECT 1 FROM user_blocks WHERE user_id = wanted.value AND blocked_id = :user_id);

-- name: blocking
-- Those of many users who block a user. LIMIT: one row a user.
SELECT user_blocks.user_id FROM json_each(:others) AS wanted
JOIN user_blocks ON user_blocks.user_id = wanted.value AND user_blocks.blocked_id = :user_id;
