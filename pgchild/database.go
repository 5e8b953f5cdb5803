package pgchild

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs
const (
	invalidCatalogName = "3D000"
	duplicateDatabase  = "42P04"
)

// ensureDatabase connects to the database and creates it first if it is missing.
func (s *Server) ensureDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN())
	if err == nil {
		return conn.Close(ctx)
	}
	if !isState(err, invalidCatalogName) {
		return fmt.Errorf("connect: %w", err)
	}
	conn, err = pgx.Connect(ctx, s.DSNFor("postgres"))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{s.opts.Database}.Sanitize())
	if err != nil && !isState(err, duplicateDatabase) {
		return errors.Join(fmt.Errorf("create database %q: %w", s.opts.Database, err), conn.Close(ctx))
	}
	return conn.Close(ctx)
}

func isState(err error, state string) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pe.Code == state
}
