-- Queries that serve many at once, whose stretches of rooms come as one JSON text.

-- name: of_stretches
-- The messages of many stretches of rooms, each with the number of its stretch. LIMIT: a stretch has an end.
SELECT json_extract(wanted.value, '$.n'), rooms.kind,
       messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM json_each(:stretches) AS wanted
JOIN rooms ON rooms.id = json_extract(wanted.value, '$.room_id')
JOIN messages ON messages.room_id = rooms.id AND messages.seq > json_extract(wanted.value, '$.after')
              AND messages.seq <= json_extract(wanted.value, '$.until')
JOIN users ON users.id = messages.sender_id;

-- name: events_of_stretches
-- The events of those stretches that are not messages. LIMIT: a stretch has an end.
SELECT json_extract(wanted.value, '$.n'), room_events.room_id, room_events.seq, room_events.kind, room_events.body,
       room_events.message_id
FROM json_each(:stretches) AS wanted
JOIN room_events ON room_events.room_id = json_extract(wanted.value, '$.room_id')
                 AND room_events.seq > json_extract(wanted.value, '$.after')
                 AND room_events.seq <= json_extract(wanted.value, '$.until');

-- name: of_ids
-- The messages with these ids, which come as one JSON text. LIMIT: one row an id.
SELECT messages.id, messages.room_id, messages.seq, messages.sender_id, users.username, messages.message_type,
       messages.content, messages.created_at, messages.client_message_id, messages.reply_to, messages.metadata,
       messages.edited_at, messages.deleted_at, messages.pinned_at, messages.reactions,
       messages.attachment
FROM json_each(:ids) AS wanted JOIN messages ON messages.id = wanted.value
JOIN users ON users.id = messages.sender_id;
