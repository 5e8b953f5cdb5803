package main

import (
	"context"
	"fmt"
	"time"
)

type verifyCmd struct{ databaseFlags }

// Run implements parley verify: it reads the whole database in one snapshot and
// lists what contradicts a promise.
func (c *verifyCmd) Run(ctx context.Context, tty terminal) error {
	db, closeDB, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer closeDB()
	start := time.Now()
	found, err := db.Verify(ctx)
	if err != nil {
		return err
	}
	for _, v := range found {
		fmt.Fprintln(tty.Out, v)
	}
	if len(found) > 0 {
		return fmt.Errorf("%d violations in %v; please report them, with this list", len(found), time.Since(start).Round(time.Millisecond))
	}
	fmt.Fprintf(tty.Out, "Every log is without a gap, every message is there once, every cursor is within its log (%v).\n", time.Since(start).Round(time.Millisecond))
	return nil
}
