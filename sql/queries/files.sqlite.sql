-- What SQLite says in its own way.

-- name: known_keys
-- Those of these keys that blobs have. LIMIT: one row a key.
SELECT file_blobs.key FROM json_each(:keys) AS wanted JOIN file_blobs ON file_blobs.key = wanted.value;
