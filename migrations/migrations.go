// Package migrations holds the steps of the database schema, in order. They are
// applied by store.Migrate. Each file is one small step in one transaction; old
// and new binaries both run before and after each (see README.md here).
package migrations

import "embed"

// FS holds the steps, named NNNNN_what.sql in goose's format.
//
//go:embed *.sql
var FS embed.FS
