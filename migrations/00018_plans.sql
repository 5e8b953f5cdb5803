-- No other index of events may look as good as its key where an event is asked for by
-- conversation and seq: with statistics of a time when conversations had a handful of events,
-- the planner took the one for client_msg_id, which begins with the conversation too, and read
-- all of its events. It begins with the sender now, and serves the same statements.
-- oldest binary: 11

-- +goose Up
ALTER INDEX events_client_msg_id RENAME TO events_client_msg_id_former;
CREATE UNIQUE INDEX events_client_msg_id ON events (sender_id, conversation_id, client_msg_id) INCLUDE (seq);
DROP INDEX events_client_msg_id_former;

-- +goose Down
DROP INDEX events_client_msg_id;
CREATE UNIQUE INDEX events_client_msg_id ON events (conversation_id, sender_id, client_msg_id) INCLUDE (seq);
