-- What a chat server keeps: accounts and their sessions, rooms and their members, messages and the other
-- durable events of a room. Ids are UUIDv7 text made by the daemon, times are milliseconds since 1970 (UTC),
-- numbers of a room start at 1 and have no holes.

-- Facts about this database as a whole: 'epoch' (changes when a backup is restored), 'lobby' (id of the first room).
CREATE TABLE server_facts (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    username TEXT NOT NULL,
    -- the username in lower case: two names that differ in case only are the same name
    username_key TEXT NOT NULL UNIQUE,
    display_name TEXT,
    avatar_file_id TEXT,
    status TEXT NOT NULL DEFAULT 'online',
    status_message TEXT,
    password_hash TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    last_seen_at BIGINT,
    disabled_at BIGINT
);

-- A session begins at sign-in and lives on through its refresh tokens, of which only the SHA-256 is kept.
CREATE TABLE user_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    refresh_hash TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    refreshed_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT
);
CREATE INDEX user_sessions_by_user ON user_sessions (user_id);

-- Refresh tokens that were used: seeing one again means that it was stolen, and ends its session.
CREATE TABLE spent_refresh_tokens (
    refresh_hash TEXT NOT NULL PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES user_sessions (id) ON DELETE CASCADE,
    spent_at BIGINT NOT NULL
);
CREATE INDEX spent_refresh_tokens_by_session ON spent_refresh_tokens (session_id);

CREATE TABLE rooms (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('public', 'private', 'direct')),
    name TEXT NOT NULL,
    topic TEXT,
    -- a direct room's two user ids in order, joined by ':'; so two people share one
    direct_key TEXT UNIQUE,
    created_by TEXT REFERENCES users (id),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    deleted_at BIGINT,
    max_members INTEGER,
    slow_mode_s INTEGER NOT NULL DEFAULT 0,
    member_count INTEGER NOT NULL DEFAULT 0,
    -- the newest number given to a durable event, and the newest given to a message among messages
    last_seq BIGINT NOT NULL DEFAULT 0,
    message_count BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX rooms_by_kind ON rooms (kind, id);

-- Cursors point at numbers: what is unread is the room's message_count less the member's read_count.
CREATE TABLE room_members (
    room_id TEXT NOT NULL REFERENCES rooms (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL CHECK (role IN ('owner', 'moderator', 'member', 'readonly')),
    joined_at BIGINT NOT NULL,
    joined_seq BIGINT NOT NULL,
    muted_until BIGINT,
    notify TEXT NOT NULL DEFAULT 'all' CHECK (notify IN ('all', 'mentions', 'none')),
    read_seq BIGINT NOT NULL DEFAULT 0,
    read_count BIGINT NOT NULL DEFAULT 0,
    read_at BIGINT,
    delivered_seq BIGINT NOT NULL DEFAULT 0,
    delivered_at BIGINT,
    PRIMARY KEY (room_id, user_id)
);
CREATE INDEX room_members_by_user ON room_members (user_id, room_id);

CREATE TABLE room_bans (
    room_id TEXT NOT NULL REFERENCES rooms (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    banned_by TEXT REFERENCES users (id),
    banned_at BIGINT NOT NULL,
    reason TEXT,
    PRIMARY KEY (room_id, user_id)
);

-- A message is itself the event of its seq. count_in_room numbers the messages of a room among themselves.
CREATE TABLE messages (
    id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL REFERENCES rooms (id),
    seq BIGINT NOT NULL,
    count_in_room BIGINT NOT NULL,
    sender_id TEXT NOT NULL REFERENCES users (id),
    message_type TEXT NOT NULL CHECK (message_type IN ('text', 'code', 'image', 'file')),
    content TEXT NOT NULL,
    reply_to TEXT,
    file_id TEXT,
    metadata TEXT,
    client_message_id TEXT,
    -- of everything that the sender asked to send: tells a repeat from another message under the same key
    request_hash TEXT,
    created_at BIGINT NOT NULL,
    edited_at BIGINT,
    deleted_at BIGINT,
    deleted_by TEXT,
    pinned_at BIGINT,
    pinned_by TEXT,
    UNIQUE (room_id, seq),
    UNIQUE (sender_id, client_message_id)
);

-- Every other durable event of a room, as the JSON text that was sent, so that a replay sends the same.
CREATE TABLE room_events (
    room_id TEXT NOT NULL REFERENCES rooms (id),
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (room_id, seq)
);
