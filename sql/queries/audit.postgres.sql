-- What PostgreSQL says in its own way.

-- name: add
INSERT INTO audit_events (id, at, action, user_id, connection_id, room_id, address, user_agent, detail)
SELECT entry ->> 0, CAST(entry ->> 1 AS BIGINT), entry ->> 2, entry ->> 3, entry ->> 4, entry ->> 5, entry ->> 6,
       entry ->> 7, entry ->> 8
FROM json_array_elements(CAST(:events AS JSON)) AS entry;
