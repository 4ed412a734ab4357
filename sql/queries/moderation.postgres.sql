-- Queries that serve many at once, whose keys come as one JSON text.

-- name: blockers
-- Whether one of many users wants to hear nothing from another.
SELECT user_id FROM user_blocks
WHERE user_id IN (SELECT json_array_elements_text(:users)) AND blocked_id = :other_id LIMIT 1;
