-- What sync_origin.id is bound to, beside the cluster: whatever changes when a dump is
-- restored, a database is copied, or a cluster goes back to an earlier moment. Where one
-- of them has changed, a start draws a new id (store/sync_origin.go). 0: not known.
-- oldest binary: 11

-- +goose Up
ALTER TABLE sync_origin
    ADD COLUMN database_oid bigint NOT NULL DEFAULT 0, -- another one: a copy in the same cluster
    ADD COLUMN table_oid    bigint NOT NULL DEFAULT 0, -- of sync_origin. Another one: restored into the same database
    ADD COLUMN timeline     bigint NOT NULL DEFAULT 0; -- another one: point-in-time recovery, or a fail-over

-- +goose Down
ALTER TABLE sync_origin DROP COLUMN database_oid, DROP COLUMN table_oid, DROP COLUMN timeline;
