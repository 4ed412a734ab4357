DROP TRIGGER search_message_removed ON messages;
DROP TRIGGER search_message_changed ON messages;
DROP FUNCTION search_forget_message();
DROP TABLE search_messages;
DROP TABLE search_changes;
DROP TABLE search_rooms;
