package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/parleymq/parley/store"
)

type migrateCmd struct{ databaseFlags }

// Run implements parley migrate.
func (c *migrateCmd) Run(ctx context.Context, tty terminal) error {
	db, err := c.database(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	dsn, stop, err := db.Serve(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stop(context.WithoutCancel(ctx)) }()
	from, to, err := store.Migrate(ctx, dsn, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if from == to {
		fmt.Fprintf(tty.Out, "The schema is up to date (version %d).\n", to)
	} else {
		fmt.Fprintf(tty.Out, "The schema went from version %d to %d.\n", from, to)
	}
	return nil
}
