-- How a database says what is in it, and what may be done with it.

-- name: has_record
SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_migrations' LIMIT 1;

-- name: lock
-- Held until the end of the transaction: one node at a time changes the schema. The number is chatd's own. LIMIT: one row.
SELECT pg_advisory_xact_lock(7017104326481);

-- name: missing_rights
-- What the user of the database may not do although chatd needs it, a sentence's end a row. LIMIT: a few for each table.
SELECT 'create tables in the schema ' || quote_ident(current_schema())
WHERE NOT has_schema_privilege(current_schema(), 'CREATE')
UNION ALL
SELECT lower(wanted.name) || ' in the table ' || quote_ident(pg_class.relname)
FROM pg_class
CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS wanted (name)
WHERE pg_class.relnamespace = current_schema()::regnamespace AND pg_class.relkind = 'r'
  AND pg_class.relname IN ('schema_migrations', 'server_facts', 'users', 'user_sessions', 'spent_refresh_tokens',
                           'rooms', 'room_members', 'room_bans', 'messages', 'room_events', 'message_reactions',
                           'room_invitations', 'user_blocks', 'notifications', 'search_rooms', 'search_changes',
                           'search_messages', 'file_blobs', 'file_uploads', 'audit_events')
  AND NOT has_table_privilege(pg_class.oid, wanted.name);

-- name: server_version
-- LIMIT: one row.
SELECT current_setting('server_version');
