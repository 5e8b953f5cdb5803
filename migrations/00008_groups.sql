-- Groups that change, and people who want nothing to do with each other.

-- +goose Up

-- What somebody who joins may see of the log: what comes from then on, or all of it.
ALTER TABLE conversations ADD COLUMN history text NOT NULL DEFAULT 'joined' CONSTRAINT conversations_history CHECK (history IN ('joined', 'all'));

CREATE TABLE blocks (
    user_id    uuid        NOT NULL, -- who wants nothing to do
    blocked_id uuid        NOT NULL, -- with whom
    created_at timestamptz NOT NULL,
    CONSTRAINT blocks_key PRIMARY KEY (user_id, blocked_id),
    CONSTRAINT blocks_self CHECK (user_id <> blocked_id)
);
CREATE INDEX blocks_blocked_id ON blocks (blocked_id, user_id);

-- +goose Down
DROP TABLE blocks;
ALTER TABLE conversations DROP COLUMN history;
