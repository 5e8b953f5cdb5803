-- Device topics: retained messages, and sessions of clients that have no account.
-- oldest binary: 11

-- +goose Up

-- The retained message of each topic. Names below dev/ are each user's own: space is
-- whose; the zero id is the one space of all others. Ordered by bytes, so that what a
-- filter may cover is a range.
CREATE TABLE retained_messages (
    space      uuid        NOT NULL,
    topic      text        COLLATE "C" NOT NULL CONSTRAINT retained_messages_topic_length CHECK (octet_length(topic) BETWEEN 1 AND 1024),
    user_id    uuid        NOT NULL, -- who has published it
    origin     bigint      NOT NULL, -- their session, for No Local
    qos        smallint    NOT NULL CONSTRAINT retained_messages_qos CHECK (qos BETWEEN 0 AND 2),
    properties bytea       NOT NULL,
    payload    bytea       NOT NULL,
    stored_at  timestamptz NOT NULL,
    expires_at timestamptz,          -- NULL: never
    CONSTRAINT retained_messages_key PRIMARY KEY (space, topic)
);
CREATE INDEX retained_messages_user ON retained_messages (user_id);
CREATE INDEX retained_messages_expires_at ON retained_messages (expires_at) WHERE expires_at IS NOT NULL;

-- Who connects without an account, where that is allowed, may have a session too.
ALTER TABLE sessions DROP CONSTRAINT sessions_user;

-- +goose Down
DELETE FROM sessions s WHERE NOT EXISTS (SELECT FROM users u WHERE u.id = s.user_id);
ALTER TABLE sessions ADD CONSTRAINT sessions_user FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE;
DROP TABLE retained_messages;
