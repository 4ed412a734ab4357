-- Files that users send, and the blobs that they are made of.

-- name: claim_blob
-- Have a blob for this content: its key, and when it was stored if it was. From now on it is not removed for a while.
INSERT INTO file_blobs (sha256, key, size, used_at) VALUES (:sha256, :key, :size, :now)
ON CONFLICT (sha256) DO UPDATE SET used_at = :now
RETURNING key, stored_at;

-- name: note_stored
UPDATE file_blobs SET stored_at = :now WHERE sha256 = :sha256 AND stored_at IS NULL;

-- name: usage
-- How many bytes all files of a user have. LIMIT: one row.
SELECT COALESCE(SUM(size), 0) FROM file_uploads WHERE owner_id = :owner_id;

-- name: lock_owner
-- Nothing else is being written meanwhile.
SELECT 1 FROM users WHERE id = :owner_id LIMIT 1;

-- name: add
INSERT INTO file_uploads (id, owner_id, name, original_name, mime_type, size, sha256, width, height, thumbnail_name,
                          thumbnail_size, thumbnail_sha256, created_at, look_at)
VALUES (:id, :owner_id, :name, :original_name, :mime_type, :size, :sha256, :width, :height, :thumbnail_name,
        :thumbnail_size, :thumbnail_sha256, :created_at, :look_at);

-- name: page
-- The newest files of a user below an id, newest first; ids are in the order of their making.
SELECT id, owner_id, name, original_name, mime_type, size, sha256, width, height, thumbnail_name, thumbnail_size,
       thumbnail_sha256, created_at
FROM file_uploads WHERE owner_id = :owner_id AND id < :before ORDER BY id DESC LIMIT :limit OFFSET :offset;

-- name: by_name
-- The file that is called so, or whose thumbnail is, with the keys of what both are made of.
SELECT file.id, file.owner_id, file.name, file.original_name, file.mime_type, file.size, file.sha256, file.width,
       file.height, file.thumbnail_name, file.thumbnail_size, file.thumbnail_sha256, file.created_at,
       content.key, thumbnail.key
FROM file_uploads AS file
JOIN file_blobs AS content ON content.sha256 = file.sha256
LEFT JOIN file_blobs AS thumbnail ON thumbnail.sha256 = file.thumbnail_sha256
WHERE file.name = :name OR file.thumbnail_name = :name LIMIT 1;

-- name: is_for
-- Whether a message in a room that a user is in shows a file, or somebody's profile does.
SELECT 1
WHERE EXISTS (
    SELECT 1 FROM messages
    JOIN room_members ON room_members.room_id = messages.room_id AND room_members.user_id = :user_id
    JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
    WHERE messages.file_id = :id
) OR EXISTS (SELECT 1 FROM users WHERE avatar_file_id = :id)
LIMIT 1;

-- name: is_linkable
-- Whether links of a user to a file are good. They end when the user is disabled, or does not see the file in a message
-- or a profile any more; links to one's own, when nothing shows it any more. Nothing has to have shown it yet.
SELECT 1 FROM file_uploads AS file
JOIN users AS maker ON maker.id = :user_id AND maker.disabled_at IS NULL
WHERE file.id = :id AND (
    (file.owner_id = maker.id AND file.held_until = 0)
    OR EXISTS (
        SELECT 1 FROM messages
        JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
        LEFT JOIN room_members ON room_members.room_id = messages.room_id AND room_members.user_id = maker.id
        WHERE messages.file_id = file.id AND (file.owner_id = maker.id OR room_members.user_id IS NOT NULL)
    )
    OR EXISTS (SELECT 1 FROM users WHERE avatar_file_id = file.id)
)
LIMIT 1;

-- name: hold
-- One's own file, which is neither removed nor looked at for a while, for one is about to show it.
UPDATE file_uploads SET held_until = :until, look_at = CASE WHEN look_at < :look_at THEN :look_at ELSE look_at END
WHERE id = :id AND owner_id = :owner_id
RETURNING id, owner_id, name, original_name, mime_type, size, sha256, width, height, thumbnail_name, thumbnail_size,
          thumbnail_sha256, created_at;

-- name: release
-- A file that something does not show any more is looked at again a while later.
UPDATE file_uploads SET look_at = :look_at WHERE id = :id;

-- name: shown
-- Whether anything shows a file, or may be about to; of files that are no other user's.
SELECT EXISTS (SELECT 1 FROM messages JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
               WHERE messages.file_id = file.id)
       OR EXISTS (SELECT 1 FROM users WHERE avatar_file_id = file.id),
       file.held_until > :now
FROM file_uploads AS file WHERE file.id = :id AND file.owner_id = :owner_id LIMIT 1;

-- name: remove_own
DELETE FROM file_uploads
WHERE id = :id AND owner_id = :owner_id AND held_until <= :now
  AND NOT EXISTS (SELECT 1 FROM messages JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
               WHERE messages.file_id = file_uploads.id)
  AND NOT EXISTS (SELECT 1 FROM users WHERE avatar_file_id = file_uploads.id);

-- name: due
-- What rooms show that were deleted nobody sees. Files whose time has come to be looked at, and whether anything shows them.
SELECT id, EXISTS (SELECT 1 FROM messages JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
               WHERE messages.file_id = file.id)
           OR EXISTS (SELECT 1 FROM users WHERE avatar_file_id = file.id)
FROM file_uploads AS file WHERE look_at <= :now ORDER BY look_at LIMIT :limit;

-- name: remove_unshown
-- Who is about to show it has moved its time.
DELETE FROM file_uploads
WHERE id = :id AND look_at <= :now
  AND NOT EXISTS (SELECT 1 FROM messages JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
               WHERE messages.file_id = file_uploads.id)
  AND NOT EXISTS (SELECT 1 FROM users WHERE avatar_file_id = file_uploads.id)
RETURNING id;

-- name: unused_blobs
-- Blobs that no file is made of and that nobody is storing. An upload that broke off left some of them.
SELECT sha256 FROM file_blobs AS blob
WHERE used_at < :before
  AND NOT EXISTS (SELECT 1 FROM file_uploads WHERE sha256 = blob.sha256)
  AND NOT EXISTS (SELECT 1 FROM file_uploads WHERE thumbnail_sha256 = blob.sha256)
ORDER BY used_at LIMIT :limit;

-- name: remove_blob
DELETE FROM file_blobs
WHERE sha256 = :sha256 AND used_at < :before
  AND NOT EXISTS (SELECT 1 FROM file_uploads WHERE sha256 = file_blobs.sha256)
  AND NOT EXISTS (SELECT 1 FROM file_uploads WHERE thumbnail_sha256 = file_blobs.sha256)
RETURNING key;
