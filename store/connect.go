package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/parleymq/parley/chat"
)

// Every connection is made by a configuration that onConnect has prepared: those of the
// pools, the node lease and the migrations. Settings are SET after connecting rather than sent
// as startup parameters, because poolers refuse those that they do not know.

// OldestServer is the oldest major version of PostgreSQL that Parley runs on.
const OldestServer = 14

// idleInTx is how long a transaction may wait for its process before PostgreSQL ends it, so
// that a process that is paused, or a host that is gone, does not keep rows locked. None
// of our transactions waits between statements.
const idleInTx = 5 * time.Second

// connectSettings are what our statements rely on. Each can be set otherwise for the server,
// the database or the role.
var connectSettings = []setting{
	// The log's rules hold in this isolation: a statement that waits for a lock sees what the
	// holder has committed. A stricter one would see the blocks and members of before.
	{name: "default_transaction_isolation", value: "read committed"},

	// What an acknowledgement means. One value is stronger, see setSQL.
	{name: "synchronous_commit", value: "on"},

	// What a value means as text. pgx sends most in binary.
	{name: "client_encoding", value: "UTF8"},
	{name: "standard_conforming_strings", value: "on"},
	{name: "DateStyle", value: "ISO"},
	{name: "IntervalStyle", value: "postgres"},
	{name: "TimeZone", value: "UTC"},
	{name: "bytea_output", value: "hex"},
	{name: "array_nulls", value: "on"},

	// What a statement finds, and what follows an error.
	{name: "row_security", value: "off"}, // a policy that hides rows is an error, not a gap
	{name: "gin_fuzzy_search_limit", value: "0"},
	{name: "transform_null_equals", value: "off"},
	{name: "exit_on_error", value: "off"},

	// Which index a statement is served by must not depend on statistics: there are none after an
	// import or a restore, and stale ones say that a conversation has a handful of events, so that
	// reading all of it looks as good as reading its end. What is left to choose from is an index
	// in its order, and an index of its own is there for every statement that somebody waits for.
	// One plan for all arguments: none is made for each call, and none depends on them. JIT would
	// compile the statements that do read a whole table, whose costs are now beyond all bounds.
	{name: "enable_seqscan", value: "off"},
	{name: "enable_bitmapscan", value: "off"},
	{name: "plan_cache_mode", value: "force_generic_plan"},
	{name: "jit", value: "off"},

	// Callers have deadlines of their own, and some statements read everything.
	{name: "statement_timeout", value: "0", kept: true},
	{name: "lock_timeout", value: "0", kept: true},
	{name: "idle_session_timeout", value: "0", kept: true},
	{name: "transaction_timeout", value: "0", kept: true, since: 17},
	{name: "idle_in_transaction_session_timeout", value: strconv.FormatInt(idleInTx.Milliseconds(), 10), kept: true},
}

// A setting is one of PostgreSQL's, as it is set on a connection.
type setting struct {
	name, value string
	kept        bool // a value in the DSN stays
	since       int  // major version of PostgreSQL that has it; 0: all
}

const setSQL = `
SELECT set_config(s.name, CASE WHEN s.name = 'synchronous_commit' AND current_setting(s.name) = 'remote_apply' THEN 'remote_apply' ELSE s.value END, false)
FROM unnest($1::text[], $2::text[]) AS s (name, value)`

const readSettingsSQL = `
SELECT coalesce(current_setting(s.name, true), '') FROM unnest($1::text[]) WITH ORDINALITY AS s (name, n) ORDER BY n`

// demands are the settings that a session cannot set, or should not: somebody meant them.
var demands = []demand{
	{name: "fsync", want: "on", accepted: true, fault: "a crash of its machine would lose acknowledged messages, or everything; " +
		"put fsync = on into postgresql.conf and reload it"},
	{name: "full_page_writes", want: "on", accepted: true, fault: "a crash of its machine may leave torn pages; " +
		"put full_page_writes = on into postgresql.conf and reload it, or, if its storage cannot tear a page, SET parley.accept = 'full_page_writes' for the database"},
	{name: "zero_damaged_pages", want: "off", fault: "damaged pages would become empty without a word; turn it off"},
	{name: "session_replication_role", want: "origin", fault: "foreign keys would not be checked; RESET it for the role and the database"},
	{name: "server_encoding", want: "UTF8", fault: "text would be lost or changed; create the database anew with " +
		"CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and restore a dump into it"},
	{name: "in_hot_standby", want: "off", passing: true, fault: "it is a standby, which takes no writes; name the primary, " +
		"or all hosts with target_session_attrs=read-write"},
	{name: "default_transaction_read_only", want: "off", passing: true, fault: "somebody has made it read-only, " +
		"perhaps because its disk is almost full; when it may be written again, RESET it for the database and the role"},
}

// A demand is a setting without which a promise is void.
type demand struct {
	name     string
	want     string
	fault    string // what another value means, and what to do
	accepted bool   // acceptSetting may name it
	passing  bool   // it may be otherwise a little later, without anybody's doing
}

// acceptSetting is a setting of the server or the database that lists demands, separated by
// commas, that its operator answers for: fsync of a server whose data may be lost, such as
// that of a test, or full_page_writes on a file system that cannot tear pages.
const acceptSetting = "parley.accept"

// acceptedDemands returns what acceptSetting lists on a connection.
func acceptedDemands(c *pgx.Conn) []string {
	accepted, _ := c.PgConn().CustomData()[acceptSetting].([]string)
	return accepted
}

// A settingError says which demand a connection does not meet.
type settingError struct {
	demand
	value string
}

func (e *settingError) Error() string { return "has " + e.name + " = " + e.value + ": " + e.fault }

// onConnect has each connection made by config set and checked, with these settings beside, or
// in place of, those of all connections. An error of it says which setting is at fault, as a
// *settingError.
func onConnect(config *pgx.ConnConfig, more ...setting) {
	all := slices.DeleteFunc(slices.Clone(connectSettings), func(s setting) bool {
		return s.kept && inDSN(config, s.name) || slices.ContainsFunc(more, func(m setting) bool { return m.name == s.name })
	})
	all = append(all, more...)
	config.AfterConnect = func(ctx context.Context, c *pgconn.PgConn) error {
		// A pooler without a free server lets one wait here, for longer than callers do.
		ctx, cancel := chat.WithDeadline(ctx, config.ConnectTimeout, "store.onConnect")
		defer cancel()
		if err := checkVersion(c); err != nil {
			return err
		}
		return settle(ctx, c, all)
	}
}

func inDSN(config *pgx.ConnConfig, name string) bool {
	for given := range config.RuntimeParams {
		if strings.EqualFold(given, name) {
			return true
		}
	}
	return false
}

// settle sets the settings and checks the demands, in one round trip.
func settle(ctx context.Context, c *pgconn.PgConn, all []setting) error {
	var names, values []string
	major := majorVersion(c)
	for _, s := range all {
		if s.since <= major {
			names, values = append(names, s.name), append(values, s.value)
		}
	}
	var batch pgconn.Batch
	batch.ExecParams(setSQL, [][]byte{textArray(names), textArray(values)}, nil, nil, nil)
	return readDemands(ctx, c, &batch)
}

// readDemands checks the demands, in one round trip with the statements of the batch.
func readDemands(ctx context.Context, c *pgconn.PgConn, batch *pgconn.Batch) error {
	names := []string{acceptSetting}
	for _, d := range demands {
		names = append(names, d.name)
	}
	batch.ExecParams(readSettingsSQL, [][]byte{textArray(names)}, nil, nil, nil)
	results, err := c.ExecBatch(ctx, batch).ReadAll()
	if err != nil {
		return err
	}
	rows := results[len(results)-1].Rows
	if len(rows) != len(names) {
		return errors.New("the server answered with something else than its settings")
	}
	accepted := strings.FieldsFunc(string(rows[0][0]), func(r rune) bool { return r == ',' || r == ' ' })
	if len(accepted) > 0 {
		c.CustomData()[acceptSetting] = accepted
	}
	for i, d := range demands {
		if value := string(rows[1+i][0]); value != d.want && (!d.accepted || !slices.Contains(accepted, d.name)) {
			return &settingError{d, value}
		}
	}
	return nil
}

// textArray is an array of PostgreSQL's as text. Its elements are ours, and have neither
// quotes nor backslashes.
func textArray(elements []string) []byte {
	return []byte(`{"` + strings.Join(elements, `","`) + `"}`)
}

// checkVersion refuses servers that lack what our statements use. The version
// came with the connection: no round trip. One that does not say is given a try.
func checkVersion(c *pgconn.PgConn) error {
	if major := majorVersion(c); major == 0 || major >= OldestServer {
		return nil
	}
	return &chat.Error{
		Code: chat.Invalid, Op: "store.Open", Field: "database",
		Msg: fmt.Sprintf("is PostgreSQL %s; Parley needs %d or newer", c.ParameterStatus("server_version"), OldestServer),
	}
}

// majorVersion is that of the server; 0: it does not say.
func majorVersion(c *pgconn.PgConn) int {
	version := c.ParameterStatus("server_version")
	digits := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if digits < 0 {
		digits = len(version)
	}
	major, _ := strconv.Atoi(version[:digits])
	return major
}

// errPooled is the answer to a pooler that gives each transaction, or statement, another
// session.
var errPooled = &chat.Error{
	Code: chat.Invalid, Op: "store.Open", Field: "database",
	Msg: "is behind a pooler in transaction or statement mode; Parley needs sessions, for its settings, locks and prepared statements: " +
		"set pool_mode = session for this database (PgBouncer), or connect to PostgreSQL itself",
}

const (
	setSessionSQL  = `SELECT set_config('parley.session', $1, false)`
	readSessionSQL = `SELECT coalesce(current_setting('parley.session', true), '')`
)

// refusePooler returns errPooled if a connection of ours does not have a session to itself.
// What one sets for its session, the other must not see, and it must still see itself. It looks
// several times, since a pooler with several servers may by chance give us the same one. It
// is done before anything is set that would stay with a session of somebody else's.
func refusePooler(ctx context.Context, config *pgx.ConnConfig) error {
	config = config.Copy()
	config.AfterConnect = func(_ context.Context, c *pgconn.PgConn) error { return checkVersion(c) }
	var conns [2]*pgconn.PgConn
	for i := range conns {
		conn, err := pgconn.ConnectConfig(ctx, &config.Config)
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		conns[i] = conn
	}
	token := rand.Text()
	if err := conns[0].ExecParams(ctx, setSessionSQL, [][]byte{[]byte(token)}, nil, nil, nil).Read().Err; err != nil {
		return err
	}
	for range 3 {
		for i, conn := range slices.Backward(conns[:]) {
			result := conn.ExecParams(ctx, readSessionSQL, nil, nil, nil, nil).Read()
			if result.Err != nil {
				return result.Err
			}
			if (len(result.Rows) == 1 && string(result.Rows[0][0]) == token) != (i == 0) {
				return errPooled
			}
		}
	}
	return nil
}
