-- Rooms and their members.

-- name: add
INSERT INTO rooms (id, kind, name, topic, created_by, created_at, updated_at, member_count)
VALUES (:id, :kind, :name, :topic, :created_by, :now, :now, :member_count);

-- name: add_member
INSERT INTO room_members (room_id, user_id, role, joined_at, joined_seq) VALUES (:room_id, :user_id, :role, :now, 0);

-- name: by_id
-- A room with the role that the asking user has in it, if any, and the one that an invitation offers.
SELECT rooms.id, rooms.kind, rooms.name, rooms.topic, rooms.created_by, rooms.created_at, rooms.member_count,
       rooms.max_members, rooms.last_seq, room_members.role, room_members.joined_seq, rooms.slow_mode_s,
       room_invitations.role
FROM rooms
LEFT JOIN room_members ON room_members.room_id = rooms.id AND room_members.user_id = :user_id
LEFT JOIN room_invitations ON room_invitations.room_id = rooms.id AND room_invitations.user_id = :user_id
WHERE rooms.id = :id AND rooms.deleted_at IS NULL LIMIT 1;

-- name: visible
-- Public rooms, the user's own ones and those that they are invited to behind the cursor, oldest first.
SELECT rooms.id, rooms.kind, rooms.name, rooms.topic, rooms.created_by, rooms.created_at, rooms.member_count,
       rooms.max_members, rooms.last_seq, room_members.role, room_members.joined_seq, rooms.slow_mode_s,
       room_invitations.role
FROM rooms
LEFT JOIN room_members ON room_members.room_id = rooms.id AND room_members.user_id = :user_id
LEFT JOIN room_invitations ON room_invitations.room_id = rooms.id AND room_invitations.user_id = :user_id
WHERE rooms.id > :after AND rooms.deleted_at IS NULL
  AND (
      rooms.kind = 'public'
      OR (rooms.kind <> 'direct' AND (room_members.role IS NOT NULL OR room_invitations.role IS NOT NULL))
  )
ORDER BY rooms.id LIMIT :limit OFFSET :offset;

-- name: members
-- A page of a room's members in order of their ids.
SELECT room_members.user_id, users.username, users.display_name, room_members.role, room_members.joined_at,
       users.status, users.status_message, users.last_seen_at, room_members.muted_until
FROM room_members JOIN users ON users.id = room_members.user_id
WHERE room_members.room_id = :room_id AND room_members.user_id > :after
ORDER BY room_members.user_id LIMIT :limit OFFSET :offset;

-- name: member
-- One member of a room.
SELECT room_members.user_id, users.username, users.display_name, room_members.role, room_members.joined_at,
       users.status, users.status_message, users.last_seen_at, room_members.muted_until
FROM room_members JOIN users ON users.id = room_members.user_id
WHERE room_members.room_id = :room_id AND room_members.user_id = :user_id LIMIT 1;

-- name: count_of_user
-- How many rooms the user is in; direct conversations do not count.
SELECT COUNT(*) FROM room_members JOIN rooms ON rooms.id = room_members.room_id
WHERE room_members.user_id = :user_id AND rooms.kind <> 'direct' AND rooms.deleted_at IS NULL;
