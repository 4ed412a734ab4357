-- What moderators do: invitations, bans, roles, and the room itself. Most of it runs inside of an act.

-- name: person
-- The name of a user, and whether the account is disabled.
SELECT username, disabled_at FROM users WHERE id = :user_id LIMIT 1;

-- name: set_role
UPDATE room_members SET role = :role WHERE room_id = :room_id AND user_id = :user_id;

-- name: set_muted
UPDATE room_members SET muted_until = :until WHERE room_id = :room_id AND user_id = :user_id;

-- name: heir
-- Who stands highest in a room but for one member, and of those who has been in it longest: the first of each role by
-- the index, however many there are.
SELECT user_id, role FROM (
    SELECT * FROM (
        SELECT 0 AS height, room_members.user_id, room_members.role
        FROM room_members JOIN users ON users.id = room_members.user_id
        WHERE room_members.room_id = :room_id AND room_members.role = 'owner' AND room_members.user_id <> :user_id
          AND users.disabled_at IS NULL
        ORDER BY room_members.joined_seq, room_members.joined_at, room_members.user_id LIMIT 1
    ) AS owner_next
    UNION ALL
    SELECT * FROM (
        SELECT 1 AS height, room_members.user_id, room_members.role
        FROM room_members JOIN users ON users.id = room_members.user_id
        WHERE room_members.room_id = :room_id AND room_members.role = 'moderator' AND room_members.user_id <> :user_id
          AND users.disabled_at IS NULL
        ORDER BY room_members.joined_seq, room_members.joined_at, room_members.user_id LIMIT 1
    ) AS moderator_next
    UNION ALL
    SELECT * FROM (
        SELECT 2 AS height, room_members.user_id, room_members.role
        FROM room_members JOIN users ON users.id = room_members.user_id
        WHERE room_members.room_id = :room_id AND room_members.role = 'member' AND room_members.user_id <> :user_id
          AND users.disabled_at IS NULL
        ORDER BY room_members.joined_seq, room_members.joined_at, room_members.user_id LIMIT 1
    ) AS member_next
    UNION ALL
    SELECT * FROM (
        SELECT 3 AS height, room_members.user_id, room_members.role
        FROM room_members JOIN users ON users.id = room_members.user_id
        WHERE room_members.room_id = :room_id AND room_members.role = 'readonly' AND room_members.user_id <> :user_id
          AND users.disabled_at IS NULL
        ORDER BY room_members.joined_seq, room_members.joined_at, room_members.user_id LIMIT 1
    ) AS readonly_next
) AS nexts
ORDER BY height LIMIT 1;

-- name: invitation
-- As what a user may join.
SELECT role FROM room_invitations WHERE room_id = :room_id AND user_id = :user_id LIMIT 1;

-- name: count_invitations
SELECT COUNT(*) FROM room_invitations WHERE room_id = :room_id;

-- name: invite
-- The newest invitation of a user to a room is the one that counts.
INSERT INTO room_invitations (room_id, user_id, role, invited_by, invited_at)
VALUES (:room_id, :user_id, :role, :invited_by, :now)
ON CONFLICT (room_id, user_id) DO UPDATE
SET role = excluded.role, invited_by = excluded.invited_by, invited_at = excluded.invited_at;

-- name: drop_invitation
DELETE FROM room_invitations WHERE room_id = :room_id AND user_id = :user_id;

-- name: drop_invitations
DELETE FROM room_invitations WHERE room_id = :room_id;

-- name: blocks
-- Whether a user wants to hear nothing from another.
SELECT 1 FROM user_blocks WHERE user_id = :user_id AND blocked_id = :other_id LIMIT 1;

-- name: ban
INSERT INTO room_bans (room_id, user_id, banned_by, banned_at, reason)
VALUES (:room_id, :user_id, :banned_by, :now, :reason)
ON CONFLICT (room_id, user_id) DO NOTHING;

-- name: unban
DELETE FROM room_bans WHERE room_id = :room_id AND user_id = :user_id;

-- name: bans
-- A page of those who are kept out of a room, in order of their ids.
SELECT room_bans.user_id, users.username, room_bans.banned_by, room_bans.banned_at, room_bans.reason
FROM room_bans JOIN users ON users.id = room_bans.user_id
WHERE room_bans.room_id = :room_id AND room_bans.user_id > :after
ORDER BY room_bans.user_id LIMIT :limit OFFSET :offset;

-- name: room
-- A room as it is about to be changed.
SELECT name, topic, max_members, slow_mode_s FROM rooms WHERE id = :room_id LIMIT 1;

-- name: change_room
UPDATE rooms
SET name = :called, topic = :topic, max_members = :max_members, slow_mode_s = :slow_mode_s, updated_at = :now
WHERE id = :room_id;

-- name: delete_room
-- The rows of a room and its members stay: whatever asks for rooms asks for those that are not deleted.
UPDATE rooms SET deleted_at = :now, updated_at = :now WHERE id = :room_id;

-- name: find_rooms
-- Rooms by id or name, for the command line: two are enough to know that the name says too little.
SELECT id, kind, name, member_count, last_seq FROM rooms
WHERE (id = :name OR name = :name) AND kind <> 'direct' AND deleted_at IS NULL
ORDER BY id LIMIT 2;

-- name: all_rooms
-- A page of all rooms but direct conversations, in order of their ids.
SELECT id, kind, name, member_count, last_seq FROM rooms
WHERE id > :after AND kind <> 'direct' AND deleted_at IS NULL
ORDER BY id LIMIT :limit;
