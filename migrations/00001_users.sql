-- Accounts, what they are logged in with, and the keys that sign access tokens.

-- +goose Up
CREATE TABLE users (
    id            uuid        PRIMARY KEY,
    username      text        NOT NULL CONSTRAINT users_username_unique UNIQUE
                              CONSTRAINT users_username_length CHECK (length(username) BETWEEN 2 AND 32),
    email         text        CONSTRAINT users_email_unique UNIQUE
                              CONSTRAINT users_email_length CHECK (length(email) <= 254),
    display_name  text        NOT NULL CONSTRAINT users_display_name_length CHECK (length(display_name) <= 100),
    password_hash text        NOT NULL,
    admin         boolean     NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL,
    disabled_at   timestamptz,
    credentials_changed_at timestamptz -- what stands on a password of before is good no longer
);
-- GET /api/users?q= looks for the beginning of a name.
CREATE INDEX users_username_prefix ON users (username text_pattern_ops);

-- A login is one device's permission to act as a user: a family of refresh
-- tokens, of which the newest alone is good.
CREATE TABLE logins (
    id           uuid        PRIMARY KEY,
    user_id      uuid        NOT NULL CONSTRAINT logins_user REFERENCES users (id) ON DELETE CASCADE,
    device       text        NOT NULL CONSTRAINT logins_device_length CHECK (length(device) <= 100),
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz
);
CREATE INDEX logins_user_id ON logins (user_id);
CREATE INDEX logins_revoked_at ON logins (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX users_disabled_at ON users (disabled_at) WHERE disabled_at IS NOT NULL;
CREATE INDEX users_credentials_changed_at ON users (credentials_changed_at) WHERE credentials_changed_at IS NOT NULL;

CREATE TABLE refresh_tokens (
    hash       bytea       PRIMARY KEY CONSTRAINT refresh_tokens_hash_length CHECK (length(hash) = 32), -- SHA-256
    login_id   uuid        NOT NULL CONSTRAINT refresh_tokens_login REFERENCES logins (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    used_at    timestamptz
);
CREATE INDEX refresh_tokens_login_id ON refresh_tokens (login_id);

CREATE TABLE signing_keys (
    kid         text        PRIMARY KEY,
    private_key bytea       NOT NULL CONSTRAINT signing_keys_length CHECK (length(private_key) = 32), -- Ed25519 seed (RFC 8032)
    created_at  timestamptz NOT NULL,
    retired_at  timestamptz -- signs nothing any more; still checks what it has signed
);

-- +goose Down
DROP TABLE signing_keys, refresh_tokens, logins, users;
