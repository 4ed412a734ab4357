-- Queries that serve many at once, whose keys come as one JSON text.

-- name: standings
-- Whether sessions may still be used: with the accounts that they belong to. LIMIT: one row a session.
SELECT user_sessions.id, users.id, users.username, users.disabled_at, user_sessions.revoked_at
FROM json_each(:sessions) AS wanted
JOIN user_sessions ON user_sessions.id = wanted.value
JOIN users ON users.id = user_sessions.user_id;

-- name: by_ids
-- Profiles of up to 100 users. LIMIT: one row an id.
SELECT users.id, users.email, users.username, users.display_name, users.avatar_file_id, users.status_message,
       users.password_hash, users.created_at, users.last_seen_at, users.disabled_at
FROM json_each(:ids) AS wanted JOIN users ON users.id = wanted.value;
