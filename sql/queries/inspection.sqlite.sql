-- The same of an export, which is read into tables that hold whatever stands in it: nothing is unique, nothing refers.

-- name: create_copy
CREATE TABLE IF NOT EXISTS server_facts (name TEXT, value TEXT);
CREATE TABLE IF NOT EXISTS rooms (id TEXT, kind TEXT, last_seq INTEGER, message_count INTEGER, member_count INTEGER);
CREATE TABLE IF NOT EXISTS room_members (room_id TEXT, user_id TEXT);
CREATE TABLE IF NOT EXISTS messages (
    id TEXT, room_id TEXT, seq INTEGER, count_in_room INTEGER, sender_id TEXT, message_type TEXT, content TEXT,
    reply_to TEXT, metadata TEXT, client_message_id TEXT, created_at INTEGER, edited_at INTEGER, deleted_at INTEGER
);
CREATE TABLE IF NOT EXISTS room_events (room_id TEXT, seq INTEGER, kind TEXT, body TEXT, message_id TEXT);

-- name: index_copy
CREATE INDEX IF NOT EXISTS rooms_by_id ON rooms (id);
CREATE INDEX IF NOT EXISTS members_by_room ON room_members (room_id, user_id);
CREATE INDEX IF NOT EXISTS members_by_user ON room_members (user_id, room_id);
CREATE INDEX IF NOT EXISTS messages_by_seq ON messages (room_id, seq, id);
CREATE INDEX IF NOT EXISTS messages_by_key ON messages (sender_id, client_message_id);
CREATE INDEX IF NOT EXISTS events_by_seq ON room_events (room_id, seq);

-- name: copy_epoch
INSERT INTO server_facts (name, value) VALUES ('epoch', :epoch);

-- name: copy_rooms
INSERT INTO rooms (id, kind, last_seq, message_count, member_count)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(:rows);

-- name: copy_members
INSERT INTO room_members (room_id, user_id) SELECT value ->> 0, value ->> 1 FROM json_each(:rows);

-- name: copy_messages
INSERT INTO messages (id, room_id, seq, count_in_room, sender_id, message_type, content, reply_to, metadata,
                      client_message_id, created_at, edited_at, deleted_at)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
       value ->> 9, value ->> 10, value ->> 11, value ->> 12
FROM json_each(:rows);

-- name: copy_events
INSERT INTO room_events (room_id, seq, kind, body, message_id)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(:rows);
