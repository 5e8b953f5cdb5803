-- What a client had published, and may not know to be stored, when its last connection ended.
-- oldest binary: 11

-- +goose Up

ALTER TABLE sessions ADD COLUMN unacked_publishes jsonb NOT NULL DEFAULT '[]';

-- +goose Down

ALTER TABLE sessions DROP COLUMN unacked_publishes;
