-- What SQLite says in its own way.

-- name: add
INSERT INTO audit_events (id, at, action, user_id, connection_id, room_id, address, user_agent, detail)
SELECT entry.value ->> 0, entry.value ->> 1, entry.value ->> 2, entry.value ->> 3, entry.value ->> 4,
       entry.value ->> 5, entry.value ->> 6, entry.value ->> 7, entry.value ->> 8
FROM json_each(:events) AS entry;
