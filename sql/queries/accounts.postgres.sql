-- What several nodes do at once, and queries that serve many at once, whose keys come as one JSON text.

-- name: session_by_refresh
-- Locked: of two who use one token at once the second finds it spent.
SELECT id, user_id, expires_at, revoked_at FROM user_sessions WHERE refresh_hash = :refresh_hash LIMIT 1
FOR NO KEY UPDATE;

-- name: standings
-- Whether sessions may still be used: with the accounts that they belong to. LIMIT: one row a session.
SELECT user_sessions.id, users.id, users.username, users.disabled_at, user_sessions.revoked_at
FROM json_array_elements_text(:sessions) AS wanted (id)
JOIN user_sessions ON user_sessions.id = wanted.id
JOIN users ON users.id = user_sessions.user_id;

-- name: forget_spent
DELETE FROM spent_refresh_tokens WHERE refresh_hash IN (SELECT json_array_elements_text(:hashes));

-- name: saw
-- When users were last seen, as [id, time]; never moves back. Locked in one order, so that nodes do not block each other.
WITH seen AS (
    SELECT entry ->> 0 AS id, (entry ->> 1)::bigint AS seen_at FROM json_array_elements(:seen) AS entry
), locked AS (
    SELECT users.id FROM users WHERE users.id IN (SELECT seen.id FROM seen) ORDER BY users.id FOR NO KEY UPDATE
)
UPDATE users SET last_seen_at = seen.seen_at
FROM locked JOIN seen ON seen.id = locked.id
WHERE users.id = locked.id AND (users.last_seen_at IS NULL OR users.last_seen_at < seen.seen_at);

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
FROM json_array_elements_text(:ids) AS wanted (id) JOIN users ON users.id = wanted.id;
