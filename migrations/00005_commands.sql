-- What becomes of a message after it was sent. Its row in events says what it says
-- now; the log says what was done, one event each.

-- +goose Up

-- What an edited message said first. The later texts are in its edit events. Both
-- are emptied when the message is deleted.
CREATE TABLE message_originals (
    conversation_id uuid NOT NULL,
    message_id      uuid NOT NULL,
    content         text NOT NULL,
    CONSTRAINT message_originals_key PRIMARY KEY (conversation_id, message_id)
);

-- Who reacts to a message now, and how.
CREATE TABLE reactions (
    conversation_id uuid        NOT NULL,
    message_id      uuid        NOT NULL,
    emoji           text        NOT NULL CONSTRAINT reactions_emoji_length CHECK (octet_length(emoji) BETWEEN 1 AND 64),
    user_id         uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT reactions_key PRIMARY KEY (conversation_id, message_id, emoji, user_id)
);

-- The events about a message. Messages themselves are not in it, so that storing
-- one stays cheap.
CREATE INDEX events_message_id ON events (conversation_id, (detail ->> 'messageId'), seq) WHERE type IN ('edit', 'delete', 'reaction');

-- +goose Down
DROP INDEX events_message_id;
DROP TABLE reactions, message_originals;
