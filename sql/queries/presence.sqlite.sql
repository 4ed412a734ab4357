-- name: seen
-- Many users as others see them, each with the rooms, not too large, whose members are told of them as JSON; a direct
-- conversation in which one has blocked the other is none of them. LIMIT: one row a user.
SELECT users.id, users.username, users.status, users.status_message, users.last_seen_at, (
    SELECT json_group_array(rooms.id)
    FROM room_members JOIN rooms ON rooms.id = room_members.room_id
    WHERE room_members.user_id = users.id AND rooms.deleted_at IS NULL
      AND (:max_members = 0 OR rooms.member_count <= :max_members)
      AND NOT (rooms.kind = 'direct' AND EXISTS (
          SELECT 1
          FROM room_members AS others JOIN user_blocks
              ON (user_blocks.user_id = users.id AND user_blocks.blocked_id = others.user_id)
              OR (user_blocks.user_id = others.user_id AND user_blocks.blocked_id = users.id)
          WHERE others.room_id = rooms.id
      ))
)
FROM json_each(:users) AS wanted JOIN users ON users.id = wanted.value;
