-- Queries that serve many at once, whose keys come as one JSON text.

-- name: standings
-- Whether sessions may still be used: with the accounts that they belong to. LIMIT: one row a session.
SELECT user_sessions.id, users.id, users.username, users.disabled_at, user_sessions.revoked_at
FROM json_each(:sessions) AS wanted
JOIN user_sessions ON user_sessions.id = wanted.value
JOIN users ON users.id = user_sessions.user_id;

-- name: forget_spent
DELETE FROM spent_refresh_tokens WHERE refresh_hash IN (SELECT wanted.value FROM json_each(:hashes) AS wanted);

-- name: saw
-- When users were last seen, as [id, time]; never moves back.
UPDATE users SET last_seen_at = seen.value ->> 1
FROM json_each(:seen) AS seen
WHERE users.id = seen.value ->> 0 AND (users.last_seen_at IS NULL OR users.last_seen_at < seen.value ->> 1);

-- name: profiles
-- Many profiles, each with whether the asking user shares a room with them and neither has blocked the other. LIMIT: one
-- row an id.
SELECT users.id, users.username, users.display_name, users.avatar_file_id, users.created_at, users.status,
       users.status_message, users.last_seen_at,
       users.id = :asked_by OR (
           EXISTS (
               SELECT 1
               FROM room_members AS own
               JOIN room_members AS theirs ON theirs.room_id = own.room_id AND theirs.user_id = users.id
               JOIN rooms ON rooms.id = own.room_id AND rooms.deleted_at IS NULL
               WHERE own.user_id = :asked_by
           )
           AND NOT EXISTS (
               SELECT 1 FROM user_blocks
               WHERE (user_blocks.user_id = users.id AND user_blocks.blocked_id = :asked_by)
                  OR (user_blocks.user_id = :asked_by AND user_blocks.blocked_id = users.id)
           )
       )
FROM json_each(:ids) AS wanted JOIN users ON users.id = wanted.value;
