package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
)

// databaseFlags say which database a command works on.
type databaseFlags struct {
	Database string `name:"database" env:"DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use, such as postgres://parley@localhost/parley."`
}

// open connects to the database, which must have been migrated.
func (f databaseFlags) open(ctx context.Context) (*store.Store, error) {
	if f.Database == "" {
		return nil, errors.New("which database? Set DATABASE_URL, or give --database")
	}
	return store.Open(ctx, store.Options{DSN: f.Database, ConnectWait: 5 * time.Second})
}

// tokenFlags say how access tokens are made. The server and parley token must be given the same.
type tokenFlags struct {
	TokenIssuer   string `env:"PARLEY_TOKEN_ISSUER" default:"parley" help:"Who makes access tokens (their iss claim)."`
	TokenAudience string `env:"PARLEY_TOKEN_AUDIENCE" default:"parley" help:"For whom they are (aud)."`
	SigningKey    string `env:"PARLEY_SIGNING_KEY" placeholder:"FILE" help:"PEM file with the Ed25519 key that signs access tokens (PKCS#8); further keys in it only verify. Default: keys in the database, replaced every 90 days."`
}

// apply sets what the flags say in o.
func (f tokenFlags) apply(o *identity.Options) error {
	o.Issuer, o.Audience = f.TokenIssuer, f.TokenAudience
	if f.SigningKey == "" {
		return nil
	}
	var err error
	if o.SigningPEM, err = os.ReadFile(f.SigningKey); err != nil {
		return fmt.Errorf("signing key: %w", err)
	}
	return nil
}
