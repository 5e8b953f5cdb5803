-- What a participant has been delivered, and when they have read what.

-- +goose Up
ALTER TABLE participants
    ADD COLUMN delivered_seq bigint NOT NULL DEFAULT 0, -- the best place of their devices so far
    ADD COLUMN delivered_at timestamptz;
ALTER TABLE participants SET (fillfactor = 80);

-- Every move of participants.read_seq: a message was read at the first move that
-- reaches it.
CREATE TABLE reads (
    conversation_id uuid        NOT NULL,
    user_id         uuid        NOT NULL,
    seq             bigint      NOT NULL CONSTRAINT reads_seq CHECK (seq > 0),
    at              timestamptz NOT NULL,
    CONSTRAINT reads_key PRIMARY KEY (conversation_id, user_id, seq)
);

-- What is unread is counted: where it is much, as the length of the log less what
-- does not count. The first index holds nothing that counts, for anybody; the second
-- knows what somebody has sent.
CREATE INDEX events_uncounted ON events (conversation_id, seq) INCLUDE (sender_id, client_msg_id) WHERE type <> 'message' OR deleted_at IS NOT NULL;
DROP INDEX events_client_msg_id;
CREATE UNIQUE INDEX events_client_msg_id ON events (conversation_id, sender_id, client_msg_id) INCLUDE (seq);

-- +goose Down
DROP INDEX events_uncounted, events_client_msg_id;
CREATE UNIQUE INDEX events_client_msg_id ON events (conversation_id, sender_id, client_msg_id);
DROP TABLE reads;
ALTER TABLE participants DROP COLUMN delivered_seq, DROP COLUMN delivered_at;
ALTER TABLE participants RESET (fillfactor);
