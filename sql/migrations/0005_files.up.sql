-- Files that users send. What a file is made of is a blob, kept once for equal content, outside of the database.

-- A key names one generation of a blob: once its row is gone the key never comes back, so that what is being removed
-- cannot be what somebody is just storing again.
CREATE TABLE file_blobs (
    sha256 TEXT NOT NULL PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    size BIGINT NOT NULL,
    -- when somebody last wanted to have it stored; null in stored_at until it is durable
    used_at BIGINT NOT NULL,
    stored_at BIGINT
);
CREATE INDEX file_blobs_by_use ON file_blobs (used_at);

CREATE TABLE file_uploads (
    id TEXT NOT NULL PRIMARY KEY,
    owner_id TEXT NOT NULL REFERENCES users (id),
    -- made by the daemon: what its URL ends with; the user's own name is only data
    name TEXT NOT NULL UNIQUE,
    original_name TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    size BIGINT NOT NULL,
    sha256 TEXT NOT NULL REFERENCES file_blobs (sha256),
    width INTEGER,
    height INTEGER,
    thumbnail_name TEXT UNIQUE,
    thumbnail_size BIGINT,
    thumbnail_sha256 TEXT REFERENCES file_blobs (sha256),
    created_at BIGINT NOT NULL,
    -- when it is looked at next whether anybody shows it, and until when somebody may be about to
    look_at BIGINT NOT NULL,
    held_until BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX file_uploads_by_owner ON file_uploads (owner_id, id);
CREATE INDEX file_uploads_by_look ON file_uploads (look_at);
CREATE INDEX file_uploads_by_content ON file_uploads (sha256);
CREATE INDEX file_uploads_by_thumbnail ON file_uploads (thumbnail_sha256) WHERE thumbnail_sha256 IS NOT NULL;

CREATE INDEX messages_by_file ON messages (file_id) WHERE file_id IS NOT NULL;
CREATE INDEX users_by_avatar ON users (avatar_file_id) WHERE avatar_file_id IS NOT NULL;

-- What a message shows of its file, as JSON text: a page of messages is one query, and a file never changes.
ALTER TABLE messages ADD COLUMN attachment TEXT;
