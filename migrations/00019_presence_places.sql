-- The places of a user are to be found by their key alone: with statistics of a moment when
-- nobody was online, the planner took this index for them, which ended with the user, and read
-- all of it for each. Whoever gives up a dead node reads its rows anyway.
-- oldest binary: 11

-- +goose Up
DROP INDEX presence_places_node;
CREATE INDEX presence_places_node ON presence_places (node, node_id);

-- +goose Down
DROP INDEX presence_places_node;
CREATE INDEX presence_places_node ON presence_places (node, node_id, user_id);
