// Package pgchild runs a private PostgreSQL as a supervised child process: installed server binaries, a
// data directory of our own, one unix socket, no TCP. It is what "parley serve" uses when no
// DATABASE_URL is given.
//
// Everything lives in one folder, Options.Dir:
//
//	parley.lock    held with flock(2) for as long as a Server runs; names the holder's pid
//	data/          the cluster; made in data.new-*/ and renamed, so a half-made one is never used
//	run/           the socket, mode 0700: authentication is "trust", the folder's mode is what protects it
//	postgres.log   what the server says; past 10 MB it moves to postgres.log.1
//
// Who may die when: a Server restarts its postmaster when that ends unasked; the postmaster shuts itself
// down when we are killed (on Linux by the parent-death signal, elsewhere by a watchdog); a new Server on
// the same folder waits, for a bounded time, until its predecessor's postmaster is gone.
//
// PostgreSQL refuses to run as root. A root parent therefore starts it under an unprivileged account that
// owns data and run and nothing else. On Linux that account needs no way to the folder: it is handed
// open directories and names them /proc/self/fd/N, so a folder below a 0700 home works. Elsewhere it must
// be able to walk to the folder.
//
// A committed transaction survives a crash of the server, of the parent and of the machine: fsync,
// synchronous_commit and full_page_writes are on unless Options.Settings turn them off, as tests do (a session
// may still choose "SET synchronous_commit" for itself).
package pgchild
