-- The search index: made from the log by the server, a moment after the commit, so
-- that storing a message does not wait for it.

-- +goose Up

-- One row for each message that can be found. Each lexeme begins with its
-- conversation, so that a search reads the terms of one's own conversations only.
CREATE TABLE message_terms (
    conversation_id uuid        NOT NULL,
    seq             bigint      NOT NULL,
    message_id      uuid        NOT NULL,
    sender_id       uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    terms           tsvector    NOT NULL,
    CONSTRAINT message_terms_key PRIMARY KEY (conversation_id, seq)
);
CREATE INDEX message_terms_terms ON message_terms USING gin (terms);

-- How far the index has followed each log; none: not at all.
CREATE TABLE search_positions (
    conversation_id uuid   NOT NULL CONSTRAINT search_positions_key PRIMARY KEY,
    seq             bigint NOT NULL
) WITH (fillfactor = 80);

-- +goose Down
DROP TABLE search_positions, message_terms;
