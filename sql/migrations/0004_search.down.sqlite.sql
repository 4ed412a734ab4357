DROP TRIGGER search_message_removed;
DROP TRIGGER search_message_changed;
DROP TABLE search_index;
DROP TABLE search_changes;
DROP TABLE search_rooms;
