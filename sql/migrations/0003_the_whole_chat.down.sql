DROP TABLE notifications;
DROP TABLE user_blocks;
DROP TABLE room_invitations;
ALTER TABLE room_members DROP COLUMN posted_at;
ALTER TABLE rooms DROP COLUMN standing_seq;
ALTER TABLE room_events DROP COLUMN message_id;
DROP INDEX messages_pinned;
DROP INDEX messages_by_reply;
DROP TABLE message_reactions;
