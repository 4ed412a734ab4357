-- What members have read and what was delivered to them, by cursors.

-- name: of_message
-- Where a message stands that the asking user may see as a member.
SELECT messages.room_id, messages.seq, messages.sender_id, messages.created_at
FROM messages
JOIN rooms ON rooms.id = messages.room_id AND rooms.deleted_at IS NULL
JOIN room_members ON room_members.room_id = rooms.id AND room_members.user_id = :user_id
WHERE messages.id = :id LIMIT 1;

-- name: members
-- The cursors of those to whom a message was sent, in order of their ids.
SELECT room_members.user_id, users.username, room_members.delivered_seq, room_members.delivered_at,
       room_members.read_seq, room_members.read_at
FROM room_members JOIN users ON users.id = room_members.user_id
WHERE room_members.room_id = :room_id AND room_members.user_id > :after AND room_members.user_id <> :sender_id
  AND room_members.joined_seq < :seq
ORDER BY room_members.user_id LIMIT :limit OFFSET :offset;
