-- The audit trail. Ids are made in the order of time.

-- name: page
-- The newest events below an id that are of this kind, user and room, where those are given, and not older than a time.
SELECT id, at, action, user_id, connection_id, room_id, address, user_agent, detail
FROM audit_events
WHERE id > :after AND id < :before AND at >= :since
  AND (CAST(:action AS TEXT) = '' OR action = :action)
  AND (CAST(:user_id AS TEXT) = '' OR user_id = :user_id)
  AND (CAST(:room_id AS TEXT) = '' OR room_id = :room_id)
ORDER BY id DESC LIMIT :limit;

-- name: forget
-- Some of those whose ids are below this one.
DELETE FROM audit_events WHERE id IN (SELECT id FROM audit_events WHERE id < :before ORDER BY id LIMIT :limit);
