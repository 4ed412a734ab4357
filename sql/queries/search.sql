-- The index of messages: how it follows what is written, and what is found in it.

-- name: behind
-- Rooms of which the index has not read everything, behind an id.
SELECT rooms.id FROM rooms LEFT JOIN search_rooms ON search_rooms.room_id = rooms.id
WHERE rooms.id > :after AND rooms.last_seq > COALESCE(search_rooms.indexed_seq, 0)
ORDER BY rooms.id LIMIT :limit;

-- name: rooms_of
-- The rooms that a user may search, or the one that is named: where they are in the index. Newest members' rooms first.
SELECT search_rooms.number, search_rooms.room_id, search_rooms.indexed_seq
FROM room_members
JOIN rooms ON rooms.id = room_members.room_id
JOIN search_rooms ON search_rooms.room_id = rooms.id
WHERE room_members.user_id = :user_id AND (:room_id = '' OR rooms.id = :room_id) AND rooms.deleted_at IS NULL
  AND NOT EXISTS (
      SELECT 1 FROM room_bans WHERE room_bans.room_id = rooms.id AND room_bans.user_id = room_members.user_id
  )
ORDER BY room_members.joined_at DESC LIMIT :limit;
