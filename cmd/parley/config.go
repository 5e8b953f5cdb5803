package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
)

// databaseFlags say which database a command works on.
type databaseFlags struct {
	Database    string `name:"database" env:"DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use, such as postgres://parley@localhost/parley. Default: a private one in the data directory."`
	Data        string `name:"data" env:"PARLEY_DATA" placeholder:"DIR" help:"Data directory of the private PostgreSQL. Default: ~/.local/share/parley."`
	PostgresBin string `env:"PARLEY_POSTGRES_BIN" placeholder:"DIR" help:"Folder with the PostgreSQL programs for the private one. Default: the newest that is installed."`
}

// database returns what the flags say.
func (f databaseFlags) database(logger *slog.Logger) (app.Database, error) {
	db := app.Database{URL: f.Database, DataDir: f.Data, PostgresBin: f.PostgresBin, Logger: logger}
	if db.URL != "" || db.DataDir != "" {
		return db, nil
	}
	var err error
	db.DataDir, err = app.DefaultDataDir()
	return db, err
}

// open opens the database beside the server or without it, and migrates it.
func (f databaseFlags) open(ctx context.Context) (*store.Store, func(), error) {
	db, err := f.database(slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	return db.Use(ctx)
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

// splitList reads a list with commas.
func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
