-- Several nodes on one database. A commit of events leaves a line in the journal, in
-- the same transaction: which logs it has moved. The other nodes read it, so that
-- whatever is lost on the shorter ways between nodes is found.

-- +goose Up
CREATE TABLE journal (
    node          text        NOT NULL,           -- id of the node that wrote it
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid           xid8        NOT NULL DEFAULT pg_current_xact_id(),
    conversations uuid[],                          -- whose logs have moved,
    seqs          bigint[],                        -- how far they reach since,
    versions      bigint[],                        -- and which members_version they have
    members       boolean     NOT NULL DEFAULT false, -- that has changed
    user_id       uuid,                            -- or: a device of this user
    client_id     text,                            -- has connected
    epoch         bigint,                          -- at this node
    resumed       boolean                          -- and its session has gone on
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX journal_xid ON journal (xid);
CREATE INDEX journal_node ON journal (node, at);

-- A node is one process: its name outlives it, its id does not.
ALTER TABLE nodes
    ADD COLUMN id       text,                      -- NULL: it is not running, or was given up
    ADD COLUMN beat_at  timestamptz,               -- when it was heard of last, by the clock of the database
    ADD COLUMN released boolean NOT NULL DEFAULT true; -- its sessions and presences have been given up with it
CREATE INDEX nodes_beat_at ON nodes (beat_at) WHERE beat_at IS NOT NULL;

-- Epochs of sessions come from one sequence: of two connections of a device, anywhere,
-- the one with the higher epoch is the newer.
CREATE SEQUENCE session_epochs AS bigint;
SELECT setval('session_epochs', (SELECT coalesce(max(epoch), 0) + 1 FROM sessions));

-- +goose Down
DROP SEQUENCE session_epochs;
DROP INDEX nodes_beat_at;
ALTER TABLE nodes DROP COLUMN id, DROP COLUMN beat_at, DROP COLUMN released;
DROP TABLE journal;
