-- Who did what, when and from where: ids, codes and addresses, never what was said. Nothing refers to other tables, so
-- that a trail outlives what it tells of. `detail` is a JSON object of ids and codes.
CREATE TABLE audit_events (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    action TEXT NOT NULL,
    user_id TEXT NOT NULL,
    connection_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX audit_events_by_user ON audit_events (user_id, id);
