-- Who was here when. Whether somebody is here now is in the memory of the nodes.

-- +goose Up
CREATE TABLE presences (
    user_id        uuid        PRIMARY KEY,
    node           text,                           -- where they are online; NULL: they are not
    invisible      boolean     NOT NULL DEFAULT false, -- shown as offline until they say otherwise
    last_online_at timestamptz                     -- when they were online last, as others see it
) WITH (fillfactor = 80);
CREATE INDEX presences_node ON presences (node) WHERE node IS NOT NULL;

-- When each node was last seen alive: until then its users were here for sure, should
-- it crash.
CREATE TABLE nodes (
    name    text        PRIMARY KEY,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 80);

-- +goose Down
DROP TABLE nodes, presences;
