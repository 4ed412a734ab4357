-- What people do in rooms and between each other: reactions, invitations, blocks, notifications, and what moderates a room.

CREATE TABLE message_reactions (
    message_id TEXT NOT NULL REFERENCES messages (id),
    emoji TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (id),
    -- of the event that told of it: whoever reacted first stands first
    seq BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (message_id, emoji, user_id)
);
CREATE INDEX message_reactions_by_seq ON message_reactions (message_id, emoji, seq);

-- What is shown of a message's reactions, as JSON text: each emoji with its count and the first who chose it. It changes
-- with `message_reactions`, so that a page of messages is one query whatever stands on it.
ALTER TABLE messages ADD COLUMN reactions TEXT;

CREATE INDEX messages_by_reply ON messages (reply_to, seq) WHERE reply_to IS NOT NULL;
CREATE INDEX messages_pinned ON messages (room_id, pinned_at, seq) WHERE pinned_at IS NOT NULL;

-- The message that an event is about. The body of a `message_edited` is made from it when it is replayed, so that
-- nothing of a message that was deleted is left in here.
ALTER TABLE room_events ADD COLUMN message_id TEXT;

-- The newest seq at which somebody lost the right to send: what was read of members before that is not true any more.
ALTER TABLE rooms ADD COLUMN standing_seq BIGINT NOT NULL DEFAULT 0;

-- Who has been in a room longest, by role: the next to own it.
CREATE INDEX room_members_by_role ON room_members (room_id, role, joined_seq, joined_at, user_id);

-- The members of a room who have read last.
CREATE INDEX room_members_by_read ON room_members (room_id, read_at) WHERE read_at IS NOT NULL;

-- When a member last sent a message; kept up in rooms with a slow mode only.
ALTER TABLE room_members ADD COLUMN posted_at BIGINT;

-- Who may join a room that is not public, and as what.
CREATE TABLE room_invitations (
    room_id TEXT NOT NULL REFERENCES rooms (id),
    user_id TEXT NOT NULL REFERENCES users (id),
    role TEXT NOT NULL DEFAULT 'member' CHECK (role IN ('moderator', 'member', 'readonly')),
    invited_by TEXT REFERENCES users (id),
    invited_at BIGINT NOT NULL,
    PRIMARY KEY (room_id, user_id)
);
CREATE INDEX room_invitations_by_user ON room_invitations (user_id, room_id);

-- Whom users do not want to hear from.
CREATE TABLE user_blocks (
    user_id TEXT NOT NULL REFERENCES users (id),
    blocked_id TEXT NOT NULL REFERENCES users (id),
    blocked_at BIGINT NOT NULL,
    PRIMARY KEY (user_id, blocked_id)
);
CREATE INDEX user_blocks_by_blocked ON user_blocks (blocked_id, user_id);

-- What concerns one user. The text of a message is looked up when it is shown, so that it goes with the message.
CREATE TABLE notifications (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id),
    kind TEXT NOT NULL CHECK (kind IN ('mention', 'reply', 'reaction', 'direct', 'invitation')),
    room_id TEXT NOT NULL REFERENCES rooms (id),
    message_id TEXT,
    actor_id TEXT NOT NULL REFERENCES users (id),
    emoji TEXT,
    created_at BIGINT NOT NULL,
    read_at BIGINT,
    -- The seq of the edit by which the message names its user.
    edit_seq BIGINT
);
CREATE INDEX notifications_by_user ON notifications (user_id, id);
CREATE INDEX notifications_unread ON notifications (user_id, room_id, kind) WHERE read_at IS NULL;
