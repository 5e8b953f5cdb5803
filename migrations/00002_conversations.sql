-- Conversations, who is in them, and their logs.

-- +goose Up
CREATE TABLE conversations (
    id              uuid        PRIMARY KEY,
    kind            text        NOT NULL CONSTRAINT conversations_kind CHECK (kind IN ('direct', 'group')),
    title           text        NOT NULL DEFAULT '' CONSTRAINT conversations_title_length CHECK (length(title) <= 200),
    created_by      uuid        NOT NULL,
    created_at      timestamptz NOT NULL,
    -- The three below change with every message: no index may hold them, so that
    -- an update stays on its page (HOT), and the page keeps room for it.
    last_seq        bigint      NOT NULL DEFAULT 0 CONSTRAINT conversations_last_seq CHECK (last_seq >= 0),
    last_event_at   timestamptz NOT NULL,
    members_version bigint      NOT NULL DEFAULT 1
) WITH (fillfactor = 50);

-- One direct conversation for each pair of users.
CREATE TABLE direct_conversations (
    low_user_id     uuid NOT NULL,
    high_user_id    uuid NOT NULL,
    conversation_id uuid NOT NULL,
    CONSTRAINT direct_conversations_pair PRIMARY KEY (low_user_id, high_user_id),
    CONSTRAINT direct_conversations_order CHECK (low_user_id < high_user_id)
);

CREATE TABLE participants (
    conversation_id uuid        NOT NULL,
    user_id         uuid        NOT NULL,
    role            text        NOT NULL CONSTRAINT participants_role CHECK (role IN ('owner', 'admin', 'member')),
    joined_at       timestamptz NOT NULL,
    joined_seq      bigint      NOT NULL, -- sees the log from here
    read_seq        bigint      NOT NULL DEFAULT 0, -- has read up to here
    read_at         timestamptz,
    CONSTRAINT participants_key PRIMARY KEY (conversation_id, user_id)
);
-- Both columns, as in the key: with user_id alone, the planner may take this index
-- to look for one participant, and read all conversations of a user with many.
CREATE INDEX participants_user_id ON participants (user_id, conversation_id);

-- +goose Down
DROP TABLE participants, direct_conversations, conversations;
