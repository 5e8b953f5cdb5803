-- Which transaction has written what GET /api/sync tells of. A sync cursor is a
-- snapshot (pg_snapshot): what has changed since is what that snapshot did not see,
-- so nothing is missed, however late its transaction committed, and nothing comes
-- twice. Logs need no index for it: whoever takes a number in a log has waited for the
-- commit of the one before it, so what a snapshot sees of a log is its beginning.

-- +goose Up
ALTER TABLE events ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE conversations ADD COLUMN last_xid xid8 NOT NULL DEFAULT pg_current_xact_id(); -- of the last event
ALTER TABLE participants
    ADD COLUMN joined_xid xid8 NOT NULL DEFAULT pg_current_xact_id(), -- of joining
    ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id(), -- of joining, or the last change of role
    ADD COLUMN read_xid xid8; -- of the last move of read_seq
ALTER TABLE users ADD COLUMN profile_xid xid8 NOT NULL DEFAULT pg_current_xact_id(); -- of the last change of what others see
CREATE INDEX users_profile_xid ON users (profile_xid);

-- Who has left or been removed; the row goes when they come back.
CREATE TABLE departures (
    user_id         uuid        NOT NULL,
    conversation_id uuid        NOT NULL,
    left_at         timestamptz NOT NULL,
    xid             xid8        NOT NULL DEFAULT pg_current_xact_id(),
    CONSTRAINT departures_key PRIMARY KEY (user_id, conversation_id)
);

-- Where all these transactions were: their numbers mean nothing in another cluster,
-- such as one that a dump is restored into (store.Migrate mends it). Cursors name it
-- by its id. At most one row.
CREATE TABLE sync_origin (
    one               boolean PRIMARY KEY DEFAULT true CONSTRAINT sync_origin_one CHECK (one),
    id                uuid    NOT NULL,
    system_identifier bigint  NOT NULL -- of the cluster; 0: not known
);

-- +goose Down
DROP TABLE sync_origin, departures;
ALTER TABLE users DROP COLUMN profile_xid;
ALTER TABLE participants DROP COLUMN joined_xid, DROP COLUMN xid, DROP COLUMN read_xid;
ALTER TABLE conversations DROP COLUMN last_xid;
ALTER TABLE events DROP COLUMN xid;
