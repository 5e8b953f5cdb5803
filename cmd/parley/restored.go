package main

import (
	"context"
	"fmt"
)

type restoredCmd struct{ databaseFlags }

// Run implements parley restored: it begins a new epoch of the log. A server that runs
// notices within seconds and starts again.
func (c *restoredCmd) Run(ctx context.Context, tty terminal) error {
	db, closeDB, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer closeDB()
	if err := db.SetBack(ctx, nil); err != nil {
		return err
	}
	epoch, err := db.Epoch(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(tty.Out, "The log has a new epoch, %s: clients forget how far they had read, and start over.\n", epoch)
	return nil
}
