-- Whom users do not want to hear from.

-- name: add
INSERT INTO user_blocks (user_id, blocked_id, blocked_at) VALUES (:user_id, :blocked_id, :now)
ON CONFLICT (user_id, blocked_id) DO NOTHING;

-- name: remove
DELETE FROM user_blocks WHERE user_id = :user_id AND blocked_id = :blocked_id;

-- name: count
-- How many others the user blocks, but one.
SELECT COUNT(*) FROM user_blocks WHERE user_id = :user_id AND blocked_id <> :blocked_id;

-- name: page
-- Those whom a user blocks, in order of their ids.
SELECT user_blocks.blocked_id, users.username, users.display_name, user_blocks.blocked_at
FROM user_blocks JOIN users ON users.id = user_blocks.blocked_id
WHERE user_blocks.user_id = :user_id AND user_blocks.blocked_id > :after
ORDER BY user_blocks.blocked_id LIMIT :limit OFFSET :offset;

-- name: room_of_two
-- The direct room of two users.
SELECT id FROM rooms WHERE direct_key = :direct_key AND deleted_at IS NULL LIMIT 1;

-- name: settle
-- Nobody writes in the direct room of two while one of them blocks the other.
UPDATE room_members
SET role = CASE WHEN EXISTS (
    SELECT 1 FROM user_blocks
    WHERE (user_blocks.user_id = :one AND user_blocks.blocked_id = :other)
       OR (user_blocks.user_id = :other AND user_blocks.blocked_id = :one)
) THEN 'readonly' ELSE 'member' END
WHERE room_members.room_id = :room_id;
