-- What concerns single users. One sees what is about rooms that one is in, or invited to, by users whom one has not
-- blocked, and reactions that still stand. What one's read mark in the room has passed counts as read: the message, or
-- the edit by which it names one.

-- name: page
-- A user's notifications below the cursor, the newest first, with what there is to show of the message.
SELECT notifications.id, notifications.user_id, notifications.kind, notifications.room_id, rooms.name,
       notifications.message_id, messages.seq, notifications.actor_id, actors.username, notifications.emoji,
       CASE WHEN messages.deleted_at IS NULL THEN SUBSTR(messages.content, 1, 140) END, notifications.created_at,
       (
           notifications.read_at IS NULL
           AND NOT (notifications.kind IN ('mention', 'reply', 'direct') AND COALESCE(notifications.edit_seq, messages.seq) <= COALESCE(room_members.read_seq, 0))
       ) AS is_unread
FROM notifications
JOIN users AS actors ON actors.id = notifications.actor_id
JOIN rooms ON rooms.id = notifications.room_id AND rooms.deleted_at IS NULL
LEFT JOIN room_members
    ON room_members.room_id = notifications.room_id AND room_members.user_id = notifications.user_id
LEFT JOIN messages ON messages.id = notifications.message_id
WHERE notifications.user_id = :user_id AND notifications.id < :before
  AND (
      room_members.user_id IS NOT NULL
      OR (
          notifications.kind = 'invitation'
          AND EXISTS (
              SELECT 1 FROM room_invitations
              WHERE room_invitations.room_id = notifications.room_id
                AND room_invitations.user_id = notifications.user_id
          )
      )
  )
  AND NOT EXISTS (
      SELECT 1 FROM user_blocks
      WHERE user_blocks.user_id = notifications.user_id AND user_blocks.blocked_id = notifications.actor_id
  )
  AND (
      notifications.kind <> 'reaction'
      OR EXISTS (
          SELECT 1 FROM message_reactions
          WHERE message_reactions.message_id = notifications.message_id
            AND message_reactions.emoji = notifications.emoji
            AND message_reactions.user_id = notifications.actor_id
      )
  )
ORDER BY notifications.id DESC LIMIT :limit;

-- name: unread
-- How many a user has not read, at most a thousand.
SELECT COUNT(*) FROM (
    SELECT 1
    FROM notifications
    JOIN rooms ON rooms.id = notifications.room_id AND rooms.deleted_at IS NULL
    LEFT JOIN room_members
        ON room_members.room_id = notifications.room_id AND room_members.user_id = notifications.user_id
    LEFT JOIN messages ON messages.id = notifications.message_id
    WHERE notifications.user_id = :user_id AND notifications.read_at IS NULL
      AND NOT (
          notifications.kind IN ('mention', 'reply', 'direct') AND COALESCE(notifications.edit_seq, messages.seq) <= COALESCE(room_members.read_seq, 0)
      )
      AND (
          room_members.user_id IS NOT NULL
          OR (
              notifications.kind = 'invitation'
              AND EXISTS (
                  SELECT 1 FROM room_invitations
                  WHERE room_invitations.room_id = notifications.room_id
                    AND room_invitations.user_id = notifications.user_id
              )
          )
      )
      AND NOT EXISTS (
          SELECT 1 FROM user_blocks
          WHERE user_blocks.user_id = notifications.user_id AND user_blocks.blocked_id = notifications.actor_id
      )
      AND (
          notifications.kind <> 'reaction'
          OR EXISTS (
              SELECT 1 FROM message_reactions
              WHERE message_reactions.message_id = notifications.message_id
                AND message_reactions.emoji = notifications.emoji
                AND message_reactions.user_id = notifications.actor_id
          )
      )
    LIMIT 1000
) AS unread;

-- name: read_all
-- LIMIT: one user's, which notifications.keep_days bounds.
UPDATE notifications SET read_at = :now WHERE user_id = :user_id AND read_at IS NULL;

-- name: preference
SELECT notify FROM room_members WHERE room_id = :room_id AND user_id = :user_id LIMIT 1;

-- name: prefer
UPDATE room_members SET notify = :notify WHERE room_id = :room_id AND user_id = :user_id;

-- name: forget
-- Some of those whose ids are below this one.
DELETE FROM notifications WHERE id IN (SELECT id FROM notifications WHERE id < :before ORDER BY id LIMIT :limit);
