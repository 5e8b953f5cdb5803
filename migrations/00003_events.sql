-- The log of every conversation: the queue that all delivery reads.

-- +goose Up
CREATE TABLE events (
    conversation_id uuid        NOT NULL,
    seq             bigint      NOT NULL CONSTRAINT events_seq CHECK (seq > 0),
    id              uuid        NOT NULL,
    sender_id       uuid        NOT NULL,
    client_msg_id   uuid,       -- messages: the sender's idempotency key
    created_at      timestamptz NOT NULL,
    type            text        NOT NULL CONSTRAINT events_type CHECK (type IN ('message', 'edit', 'delete', 'reaction', 'conversation')),
    edited_at       timestamptz,
    deleted_at      timestamptz,
    content         text        NOT NULL DEFAULT '' CONSTRAINT events_content_length CHECK (octet_length(content) <= 65536),
    detail          jsonb,      -- chat.EventDetail, where there is one
    CONSTRAINT events_key PRIMARY KEY (conversation_id, seq)
);
CREATE UNIQUE INDEX events_client_msg_id ON events (conversation_id, sender_id, client_msg_id);
-- Not unique, so that the table can be distributed by conversation.
CREATE INDEX events_id ON events (id);

-- +goose Down
DROP TABLE events;
