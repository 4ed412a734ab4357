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
