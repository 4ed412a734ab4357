-- What users say of themselves, and who hears of it.

-- name: set_status
-- An absent message stays, an empty one is taken away.
UPDATE users
SET status = :status, status_message = NULLIF(COALESCE(:message, status_message), ''), updated_at = :now
WHERE id = :id;

-- name: muted_until
SELECT muted_until FROM room_members WHERE room_id = :room_id AND user_id = :user_id LIMIT 1;
