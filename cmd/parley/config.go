package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
)

// databaseFlags choose the database that a command works on.
type databaseFlags struct {
	Database    string `name:"database" env:"DATABASE_URL" placeholder:"URL" help:"PostgreSQL to use, such as postgres://parley@localhost/parley. Default: a private one in the data directory."`
	Data        string `name:"data" env:"PARLEY_DATA" placeholder:"DIR" help:"Data directory of the private PostgreSQL. Default: ~/.local/share/parley."`
	PostgresBin string `env:"PARLEY_POSTGRES_BIN" placeholder:"DIR" help:"Folder with the PostgreSQL programs for the private one. Default: the newest installed version."`
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

// tokenFlags configure access tokens. The server and parley token must be given the same.
type tokenFlags struct {
	TokenIssuer   string `env:"PARLEY_TOKEN_ISSUER" default:"parley" help:"Issuer of access tokens (iss)."`
	TokenAudience string `env:"PARLEY_TOKEN_AUDIENCE" default:"parley" help:"Audience of access tokens (aud)."`
	SigningKey    string `env:"PARLEY_SIGNING_KEY" placeholder:"FILE" help:"PEM file with the Ed25519 key that signs access tokens (PKCS#8); further keys in it only verify. Default: keys in the database, rotated every 90 days."`
}

// apply sets what the flags say in o.
func (f tokenFlags) apply(o *identity.Options) error {
	for flag, value := range map[string]string{"token-issuer": f.TokenIssuer, "token-audience": f.TokenAudience} {
		if value == "" || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
			return fmt.Errorf("--%s: %q is empty, or has control characters", flag, value)
		}
	}
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

// prefixes reads a list of networks, or of single addresses, for the flag of that name.
func prefixes(flag, list string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range splitList(list) {
		p, err := netip.ParsePrefix(s)
		if addr, addrErr := netip.ParseAddr(s); addrErr == nil {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			return nil, fmt.Errorf("--%s: %q is neither a network such as 10.1.0.0/16 or fd00:1::/64 nor an address", flag, s)
		}
		all = append(all, p)
	}
	return all, nil
}
