// Package store keeps everything in PostgreSQL (14 or newer) through pgx: it is
// the adapter behind chat.Store and identity.Store (Store) and chat.Log (Writer).
// No other package knows SQL, and no error of pgx leaves this one: see translate.
//
// A file holds one noun, with its statements as constants beside their methods.
// Each exported method is one use case and at most one transaction. Three rules
// hold for all of them:
//
//   - The zero chat.ID and the zero time.Time are NULL in the database, both ways.
//   - Times are passed in by the caller, never taken from the server's clock, and
//     come back in UTC.
//   - A database that is unreachable, full, read-only or shutting down is
//     chat.Unavailable, and the call may be repeated then. After a write it may
//     have been done already; the method's comment says what a repeat gives.
package store
