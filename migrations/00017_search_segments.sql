-- The search index anew. message_terms had a row for each message, and an index entry for each
-- of its words, which took more of the database's time than the message itself. Now the words of
-- up to a thousand events of a log are packed together (store/segment), once enough of them have
-- gathered; what is not packed yet, a search reads in the log. The server builds it from the
-- logs, so nothing is taken over. message_terms and search_positions are for older binaries, which go
-- on writing them; a later release drops them.
-- oldest binary: 11

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

-- +goose Down
DROP TABLE search_segments;
