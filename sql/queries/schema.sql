-- The record of what has landed, and facts about the database as a whole.

-- name: create_record
CREATE TABLE IF NOT EXISTS schema_migrations (
    version INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL
);

-- name: remember
INSERT INTO schema_migrations (version, name, checksum) VALUES (:version, :name, :checksum);

-- name: forget
DELETE FROM schema_migrations WHERE version = :version;

-- name: landed
-- Migrations in the order in which they landed. No LIMIT: there are as many as files.
SELECT version, name, checksum FROM schema_migrations ORDER BY version;

-- name: fact
SELECT value FROM server_facts WHERE name = :name LIMIT 1;

-- name: add_fact
INSERT INTO server_facts (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING;

-- name: keep_fact
-- Set a fact that may change.
INSERT INTO server_facts (name, value) VALUES (:name, :value) ON CONFLICT (name) DO UPDATE SET value = :value;
