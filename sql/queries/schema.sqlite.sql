-- How a database says what is in it.

-- name: has_record
SELECT name FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations' LIMIT 1;

-- name: lock
-- Nothing: a transaction that writes has SQLite's own lock from its beginning. LIMIT: one row.
SELECT 1;
