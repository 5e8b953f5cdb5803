-- What is kept of a device between connections: rows, so that a device that is
-- away costs no memory. Its offline messages are in the events table, beyond its
-- cursors.

-- +goose Up
CREATE TABLE sessions (
    id             uuid        PRIMARY KEY,
    user_id        uuid        NOT NULL CONSTRAINT sessions_user REFERENCES users (id) ON DELETE CASCADE,
    client_id      text        NOT NULL CONSTRAINT sessions_client_id_length CHECK (octet_length(client_id) <= 256),
    epoch          bigint      NOT NULL DEFAULT 1, -- rises with every connection: what an older one writes is ignored
    node           text        NOT NULL,           -- that has, or had, the connection
    created_at     timestamptz NOT NULL,
    connected_at   timestamptz NOT NULL,
    expiry_seconds bigint      NOT NULL CONSTRAINT sessions_expiry CHECK (expiry_seconds >= 0),
    expires_at     timestamptz,                    -- NULL: connected
    parted_at      timestamptz,                    -- the end of the last connection; NULL: not known, or connected
    subscriptions  jsonb       NOT NULL DEFAULT '[]',
    inflight       jsonb       NOT NULL DEFAULT '[]', -- sent and not acknowledged, at the last orderly end of a connection
    next_packet_id integer     NOT NULL DEFAULT 1 CONSTRAINT sessions_packet_id CHECK (next_packet_id BETWEEN 1 AND 65535),
    held_packet_ids integer[]  NOT NULL DEFAULT '{}', -- QoS 2: around these the client may hold identifiers that it was not told PUBREL for
    CONSTRAINT sessions_device UNIQUE (user_id, client_id)
) WITH (fillfactor = 80);
CREATE INDEX sessions_expires_at ON sessions (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX sessions_connected ON sessions (node) WHERE expires_at IS NULL;

-- How far a session has acknowledged a conversation's log. A conversation without
-- a row was joined after the session subscribed: its log counts from there.
CREATE TABLE session_cursors (
    session_id      uuid   NOT NULL CONSTRAINT session_cursors_session REFERENCES sessions (id) ON DELETE CASCADE,
    conversation_id uuid   NOT NULL,
    seq             bigint NOT NULL CONSTRAINT session_cursors_seq CHECK (seq >= 0),
    CONSTRAINT session_cursors_key PRIMARY KEY (session_id, conversation_id)
) WITH (fillfactor = 80);

-- +goose Down
DROP TABLE session_cursors, sessions;
