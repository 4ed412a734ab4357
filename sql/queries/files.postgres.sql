-- What PostgreSQL says in its own way.

-- name: lock_owner
-- Uploads of one user come one after the other here, so that their sum is true.
SELECT 1 FROM users WHERE id = :owner_id LIMIT 1 FOR NO KEY UPDATE;

-- name: known_keys
-- Those of these keys that blobs have. LIMIT: one row a key.
SELECT file_blobs.key FROM json_array_elements_text(:keys) AS wanted JOIN file_blobs ON file_blobs.key = wanted;
