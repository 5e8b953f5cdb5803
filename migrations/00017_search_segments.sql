-- The search index anew. message_terms had a row for each message, and an index entry for each
-- of its words, which took more of the database's time than the message itself. Now the words of
-- up to a thousand events of a log are packed together (store/segment), once enough of them have
-- gathered; what is not packed yet, a search reads in the log. The server builds it from the
-- logs, so nothing is taken over from the tables of before.
-- oldest binary: 17

-- +goose Up

-- A block of a segment: of the events of a log from first_seq to last_seq, the terms from
-- first_term to that of the next block. The segments of a log follow each other without a gap from 1 on.
CREATE TABLE search_segments (
    conversation_id uuid   NOT NULL,
    last_seq        bigint NOT NULL,
    first_term      bytea  NOT NULL,
    first_seq       bigint NOT NULL,
    bytes           int    NOT NULL, -- of all blocks of the segment
    data            bytea  NOT NULL,
    CONSTRAINT search_segments_key PRIMARY KEY (conversation_id, last_seq, first_term)
);
-- The data is compressed as far as it can be; only blocks with one very long entry are too large for a page.
ALTER TABLE search_segments ALTER COLUMN data SET STORAGE EXTERNAL;

DROP TABLE search_positions, message_terms;

-- +goose Down
DROP TABLE search_segments;

CREATE TABLE message_terms (
    conversation_id uuid        NOT NULL,
    seq             bigint      NOT NULL,
    message_id      uuid        NOT NULL,
    sender_id       uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    terms           tsvector    NOT NULL,
    CONSTRAINT message_terms_key PRIMARY KEY (conversation_id, seq)
);
CREATE INDEX message_terms_terms ON message_terms USING gin (terms) WITH (fastupdate = off);

CREATE TABLE search_positions (
    conversation_id uuid   NOT NULL CONSTRAINT search_positions_key PRIMARY KEY,
    seq             bigint NOT NULL
) WITH (fillfactor = 80);
