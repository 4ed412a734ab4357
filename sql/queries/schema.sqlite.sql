-- How a database says what is in it.

-- name: has_record
SELECT name FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations' LIMIT 1;
