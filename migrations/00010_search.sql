-- The search index: made from the log by the server, a moment after the commit, so
-- that storing a message does not wait for it.

-- +goose Up

-- One row for each message that can be found. Each lexeme begins with its
-- conversation and a stretch of its log (store/terms.go), so that a search reads the
-- terms of one's own conversations only, and may stop before the oldest.
CREATE TABLE message_terms (
    conversation_id uuid        NOT NULL,
    seq             bigint      NOT NULL,
    message_id      uuid        NOT NULL,
    sender_id       uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    terms           tsvector    NOT NULL,
    CONSTRAINT message_terms_key PRIMARY KEY (conversation_id, seq)
);
-- No list of what is pending: each of the many look-ups of a search would read it all.
CREATE INDEX message_terms_terms ON message_terms USING gin (terms) WITH (fastupdate = off);

-- How far the index has followed each log; none: not at all.
CREATE TABLE search_positions (
    conversation_id uuid   NOT NULL CONSTRAINT search_positions_key PRIMARY KEY,
    seq             bigint NOT NULL
) WITH (fillfactor = 80);

-- +goose Down
DROP TABLE search_positions, message_terms;
