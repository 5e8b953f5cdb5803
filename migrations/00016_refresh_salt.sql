-- What a used refresh token's successor was made of, beside the token itself, so that whoever
-- repeats it at once gets the same one (identity.Rotation). NULL: not used, or by an older binary.
-- oldest binary: 11

-- +goose Up

ALTER TABLE refresh_tokens ADD COLUMN salt bytea;

-- +goose Down

ALTER TABLE refresh_tokens DROP COLUMN salt;
