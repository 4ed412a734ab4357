-- Queries that serve many at once, whose keys come as one JSON text.

-- name: reached
-- Whom each of many concerns reaches, and what it looks like to them. One conversation, one invitation and one user's
-- reactions to a message tell once until that is read; of a conversation, what has been read by now tells nothing.
-- Of a message by an edit of which they are named, users are told who were not told of it before.
-- LIMIT: notifications.max_mentions bounds the concerns of each message, which has one user each.
WITH wanted AS (
    SELECT entry.value ->> 0 AS n, entry.value ->> 1 AS kind, entry.value ->> 2 AS room_id,
           entry.value ->> 3 AS message_id, entry.value ->> 4 AS actor_id, entry.value ->> 5 AS target,
           entry.value ->> 7 AS edit_seq
    FROM json_each(:wanted) AS entry
), reached AS (
    SELECT wanted.*, users.id AS user_id
    FROM wanted JOIN users ON users.username_key = wanted.target WHERE wanted.kind = 'mention'
    UNION ALL
    SELECT wanted.*, messages.sender_id
    FROM wanted JOIN messages ON messages.id = wanted.target AND messages.room_id = wanted.room_id
    WHERE wanted.kind IN ('reply', 'reaction')
    UNION ALL
    SELECT wanted.*, room_members.user_id
    FROM wanted JOIN room_members ON room_members.room_id = wanted.room_id WHERE wanted.kind = 'direct'
    UNION ALL
    SELECT wanted.*, wanted.target FROM wanted WHERE wanted.kind = 'invitation'
)
SELECT reached.n, reached.user_id, rooms.name, messages.seq, actors.username,
       CASE WHEN messages.deleted_at IS NULL THEN SUBSTR(messages.content, 1, 140) END
FROM reached
JOIN rooms ON rooms.id = reached.room_id AND rooms.deleted_at IS NULL
JOIN users ON users.id = reached.user_id AND users.disabled_at IS NULL
JOIN users AS actors ON actors.id = reached.actor_id
LEFT JOIN messages ON messages.id = reached.message_id
LEFT JOIN room_members ON room_members.room_id = reached.room_id AND room_members.user_id = reached.user_id
WHERE reached.user_id <> reached.actor_id
  AND (
      reached.kind = 'invitation'
      OR (room_members.notify = 'all' AND (reached.kind <> 'direct' OR messages.seq > room_members.read_seq))
      OR (room_members.notify = 'mentions' AND reached.kind IN ('mention', 'reply'))
  )
  AND NOT EXISTS (
      SELECT 1 FROM user_blocks
      WHERE user_blocks.user_id = reached.user_id AND user_blocks.blocked_id = reached.actor_id
  )
  AND NOT (reached.kind IN ('direct', 'reaction', 'invitation') AND EXISTS (
      SELECT 1
      FROM notifications AS told LEFT JOIN messages AS before ON before.id = told.message_id
      WHERE told.user_id = reached.user_id AND told.room_id = reached.room_id AND told.kind = reached.kind
        AND told.read_at IS NULL
        AND (
            (reached.kind = 'direct' AND before.seq > room_members.read_seq)
            OR (reached.kind = 'reaction' AND told.message_id = reached.message_id AND told.actor_id = reached.actor_id)
            OR reached.kind = 'invitation'
        )
  ))
  AND NOT (reached.edit_seq IS NOT NULL AND EXISTS (
      SELECT 1 FROM notifications AS told
      WHERE told.user_id = reached.user_id AND told.message_id = reached.message_id AND told.kind IN ('mention', 'reply')
  ))
ORDER BY reached.n;

-- name: add
INSERT INTO notifications (id, user_id, kind, room_id, message_id, actor_id, emoji, created_at, edit_seq)
SELECT entry.value ->> 0, entry.value ->> 1, entry.value ->> 2, entry.value ->> 3, entry.value ->> 4,
       entry.value ->> 5, entry.value ->> 6, entry.value ->> 7, entry.value ->> 8
FROM json_each(:notifications) AS entry;

-- name: read_some
UPDATE notifications SET read_at = :now
WHERE user_id = :user_id AND read_at IS NULL AND id IN (SELECT entry.value FROM json_each(:ids) AS entry);
