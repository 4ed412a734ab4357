-- What becomes of messages: edits, deletions, reactions, pins. All of it runs inside of the journal's transaction, with the
-- message's room locked.

-- name: subject
-- A message of a room as its changes are decided by.
SELECT id, sender_id, message_type, content, metadata, deleted_at, pinned_at, reactions FROM messages
WHERE id = :id AND room_id = :room_id LIMIT 1;

-- name: edit
-- Its time never goes back, whichever node's clock is ahead: who keeps the newest of what they were told can go by it.
UPDATE messages
SET content = :content, metadata = :metadata,
    edited_at = CASE WHEN COALESCE(edited_at, created_at) > :now THEN COALESCE(edited_at, created_at) ELSE :now END
WHERE id = :id;

-- name: show_metadata
UPDATE messages SET metadata = :metadata WHERE id = :id;

-- name: delete
-- Nothing of what was said stays, nor a hash of it; the key does, so that a repeat is known.
UPDATE messages
SET content = '', metadata = NULL, file_id = NULL, attachment = NULL, request_hash = NULL, reactions = NULL, pinned_at = NULL,
    pinned_by = NULL, deleted_at = :now, deleted_by = :deleted_by
WHERE id = :id;

-- name: release_file
-- The file that a message shows is looked at again later.
UPDATE file_uploads SET look_at = :look_at WHERE id = (SELECT file_id FROM messages WHERE id = :id);

-- name: forget_reactions
DELETE FROM message_reactions WHERE message_id = :id;

-- name: has_reacted
SELECT 1 FROM message_reactions WHERE message_id = :id AND emoji = :emoji AND user_id = :user_id LIMIT 1;

-- name: add_reaction
INSERT INTO message_reactions (message_id, emoji, user_id, seq, created_at)
VALUES (:id, :emoji, :user_id, :seq, :now);

-- name: remove_reaction
DELETE FROM message_reactions WHERE message_id = :id AND emoji = :emoji AND user_id = :user_id;

-- name: first_reacted
-- The first who chose an emoji.
SELECT user_id FROM message_reactions WHERE message_id = :id AND emoji = :emoji ORDER BY seq LIMIT :limit;

-- name: show_reactions
UPDATE messages SET reactions = :reactions WHERE id = :id;

-- name: pin
UPDATE messages SET pinned_at = :now, pinned_by = :user_id WHERE id = :id;

-- name: unpin
UPDATE messages SET pinned_at = NULL, pinned_by = NULL WHERE id = :id;

-- name: count_pins
-- LIMIT: one row.
SELECT COUNT(*) FROM messages WHERE room_id = :room_id AND pinned_at IS NOT NULL;
