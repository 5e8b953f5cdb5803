-- Who is here, where several nodes serve one database. A node alone keeps it in memory.
-- oldest binary: 11

-- +goose Up

-- How a user's devices at each node are, whether or not the user is invisible.
CREATE TABLE presence_places (
    user_id uuid NOT NULL,
    node    text NOT NULL,
    node_id text NOT NULL, -- which life of the node: what a former one left goes, what this one puts stays
    status  text NOT NULL,
    CONSTRAINT presence_places_key PRIMARY KEY (user_id, node),
    CONSTRAINT presence_places_status CHECK (status IN ('online', 'away'))
) WITH (fillfactor = 80);
CREATE INDEX presence_places_node ON presence_places (node, node_id, user_id);

-- How users are shown, by all of their places together. The version is from one
-- sequence, taken while the row is locked: the higher one is the newer, of a user and
-- nearly of all. A node alone leaves the three as they are, and the index empty.
CREATE SEQUENCE presence_versions;
ALTER TABLE presences
    ADD COLUMN status  text CONSTRAINT presences_status CHECK (status IN ('online', 'away')), -- NULL: offline
    ADD COLUMN version bigint NOT NULL DEFAULT 0,
    ADD COLUMN changed xid8; -- the transaction that has raised the version
CREATE INDEX presences_changed ON presences (changed, user_id) WHERE changed IS NOT NULL;

-- Who may have become whose contact, or ceased to be: members of a and members of b.
-- For nodes that did not hear of it; kept for minutes.
CREATE TABLE contact_changes (
    id         uuid        PRIMARY KEY,
    changed    xid8        NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now(),
    a          uuid[]      NOT NULL,
    b          uuid[]      NOT NULL
);
CREATE INDEX contact_changes_changed ON contact_changes (changed, id);

-- +goose Down
DROP TABLE contact_changes, presence_places;
ALTER TABLE presences DROP COLUMN status, DROP COLUMN version, DROP COLUMN changed;
DROP SEQUENCE presence_versions;
