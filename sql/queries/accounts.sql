-- Accounts, profiles and sessions.

-- name: add
INSERT INTO users (id, email, username, username_key, password_hash, created_at, updated_at)
VALUES (:id, :email, :username, :username_key, :password_hash, :now, :now);

-- name: taken
-- Who has this email or this username already. LIMIT: both keys are unique.
SELECT email, username_key FROM users WHERE email = :email OR username_key = :username_key LIMIT 2;

-- name: by_id
SELECT id, email, username, display_name, avatar_file_id, status_message, password_hash, created_at, last_seen_at,
       disabled_at
FROM users WHERE id = :id LIMIT 1;

-- name: by_email
SELECT id, email, username, display_name, avatar_file_id, status_message, password_hash, created_at, last_seen_at,
       disabled_at
FROM users WHERE email = :email LIMIT 1;

-- name: by_username
SELECT id, email, username, display_name, avatar_file_id, status_message, password_hash, created_at, last_seen_at,
       disabled_at
FROM users WHERE username_key = :username_key LIMIT 1;

-- name: page
-- A page of all accounts in order of their names.
SELECT id, email, username, display_name, avatar_file_id, status_message, password_hash, created_at, last_seen_at,
       disabled_at
FROM users WHERE username_key > :after ORDER BY username_key LIMIT :limit;

-- name: change_profile
UPDATE users
SET username = :username, username_key = :username_key, display_name = :display_name,
    status_message = :status_message, avatar_file_id = :avatar_file_id, updated_at = :now
WHERE id = :id;

-- name: change_password
UPDATE users SET password_hash = :password_hash, updated_at = :now WHERE id = :id;

-- name: disable
UPDATE users SET disabled_at = :now, updated_at = :now WHERE id = :id AND disabled_at IS NULL;

-- name: add_session
INSERT INTO user_sessions (id, user_id, refresh_hash, address, user_agent, created_at, refreshed_at, expires_at)
VALUES (:id, :user_id, :refresh_hash, :address, :user_agent, :now, :now, :expires_at);

-- name: session_by_refresh
SELECT id, user_id, expires_at, revoked_at FROM user_sessions WHERE refresh_hash = :refresh_hash LIMIT 1;

-- name: session_by_spent
-- The session of a refresh token that was used before.
SELECT user_sessions.id, user_sessions.user_id, user_sessions.expires_at, user_sessions.revoked_at
FROM spent_refresh_tokens JOIN user_sessions ON user_sessions.id = spent_refresh_tokens.session_id
WHERE spent_refresh_tokens.refresh_hash = :refresh_hash LIMIT 1;

-- name: spend
INSERT INTO spent_refresh_tokens (refresh_hash, session_id, spent_at) VALUES (:refresh_hash, :session_id, :now);

-- name: rotate
UPDATE user_sessions
SET refresh_hash = :new_hash, refreshed_at = :now, expires_at = :expires_at, address = :address,
    user_agent = :user_agent
WHERE id = :id AND refresh_hash = :old_hash;

-- name: revoke_session
UPDATE user_sessions SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL;

-- name: revoke_sessions
-- Every session of the user but the spared one.
UPDATE user_sessions SET revoked_at = :now
WHERE user_id = :user_id AND id <> :spared_id AND revoked_at IS NULL;

-- name: forget_sessions
-- Sessions that ended long ago, with their spent tokens.
DELETE FROM user_sessions WHERE expires_at < :before;

-- name: spent_before
-- Some refresh tokens that were used long ago, when they would have expired by now anyway.
SELECT refresh_hash FROM spent_refresh_tokens WHERE spent_at < :before LIMIT 1000;
