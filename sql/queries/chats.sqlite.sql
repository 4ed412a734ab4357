-- The chat list, one page of it.

-- name: page
-- A user's rooms and direct conversations behind a place in the list, the newest activity first: where each is, its last
-- message and who wrote it, its reader, and its first participants. Who wrote last has read it all.
SELECT page.id, page.kind, page.name, page.topic, page.member_count, page.last_seq, page.read_seq, page.unread,
       page.activity, page.last_message_id, (
           SELECT json_group_array(json_array(participant.user_id, participant.username, participant.display_name))
           FROM (
               SELECT room_members.user_id, users.username, users.display_name
               FROM room_members JOIN users ON users.id = room_members.user_id
               WHERE room_members.room_id = page.id
               ORDER BY room_members.user_id LIMIT :participants
           ) AS participant
       )
FROM (
    SELECT rooms.id, rooms.kind, rooms.name, rooms.topic, rooms.member_count, rooms.last_seq, own.read_seq,
           CASE WHEN last.sender_id = :user_id THEN 0 ELSE rooms.message_count - own.read_count END AS unread,
           COALESCE(last.created_at, own.joined_at) AS activity, last.id AS last_message_id
    FROM room_members AS own
    JOIN rooms ON rooms.id = own.room_id AND rooms.deleted_at IS NULL
    LEFT JOIN messages AS last ON last.room_id = rooms.id AND last.seq = (
        SELECT MAX(messages.seq) FROM messages WHERE messages.room_id = rooms.id
    )
    WHERE own.user_id = :user_id
      AND (COALESCE(last.created_at, own.joined_at) < :activity
           OR (COALESCE(last.created_at, own.joined_at) = :activity AND rooms.id < :room_id))
    ORDER BY activity DESC, rooms.id DESC LIMIT :limit OFFSET :offset
) AS page
ORDER BY page.activity DESC, page.id DESC;
