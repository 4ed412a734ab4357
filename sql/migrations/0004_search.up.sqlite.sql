-- What messages are found by. Words are made by the daemon (store/words.py), the same on every database. New messages are
-- read into the index behind their commit; what changes or goes leaves it in the same transaction, by the triggers.

-- Where the index is in each room. The numbers make keys for the index that no VACUUM changes.
CREATE TABLE search_rooms (
    number INTEGER NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL UNIQUE REFERENCES rooms (id),
    indexed_seq BIGINT NOT NULL DEFAULT 0
);

-- Messages that have changed since they were read into the index.
CREATE TABLE search_changes (
    room_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    PRIMARY KEY (room_id, seq)
);

-- A message's rowid is its room's number times 2^36, and its seq: a room is a stretch of the index, newest last. Words are
-- lower-case letters and digits with spaces between them, the sender is an id without its hyphens.
CREATE VIRTUAL TABLE search_index USING fts5 (words, sender, tokenize = 'ascii', columnsize = 0);

CREATE TRIGGER search_message_changed AFTER UPDATE OF content, deleted_at ON messages
WHEN OLD.content <> NEW.content OR OLD.deleted_at IS NOT NEW.deleted_at
BEGIN
    DELETE FROM search_index
    WHERE rowid = (SELECT number * 68719476736 + OLD.seq FROM search_rooms WHERE room_id = OLD.room_id);
    INSERT OR IGNORE INTO search_changes (room_id, seq) VALUES (NEW.room_id, NEW.seq);
END;

CREATE TRIGGER search_message_removed AFTER DELETE ON messages
BEGIN
    DELETE FROM search_index
    WHERE rowid = (SELECT number * 68719476736 + OLD.seq FROM search_rooms WHERE room_id = OLD.room_id);
END;
