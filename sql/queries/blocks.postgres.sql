-- Queries about many users at once, who come as one JSON text.

-- name: between
-- Those of many users who block a user or are blocked by them. LIMIT: one row a user.
SELECT wanted.id FROM json_array_elements_text(:others) AS wanted (id)
WHERE EXISTS (SELECT 1 FROM user_blocks WHERE user_id = :user_id AND blocked_id = wanted.id)
   OR EXISTS (SELECT 1 FROM user_blocks WHERE user_id = wanted.id AND blocked_id = :user_id);

-- name: blocking
-- Those of many users who block a user. LIMIT: one row a user.
SELECT user_blocks.user_id FROM json_array_elements_text(:others) AS wanted (id)
JOIN user_blocks ON user_blocks.user_id = wanted.id AND user_blocks.blocked_id = :user_id;
