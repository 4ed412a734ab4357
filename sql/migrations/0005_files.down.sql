DROP INDEX users_by_avatar;
DROP INDEX messages_by_file;
ALTER TABLE messages DROP COLUMN attachment;
DROP TABLE file_uploads;
DROP TABLE file_blobs;
