package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/batch"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/rawio"
)

// Options configures a Store. Only DSN is required.
type Options struct {
	// DSN names the database: a URL (postgres://user:password@host:5432/database?sslmode=…)
	// or libpq's keywords and values, pool_* parameters of pgxpool included. The
	// usual PG… environment variables fill in what it leaves out. It is never
	// logged, nor part of an error.
	DSN string

	// MaxConns is the most connections of this pool; the Writer has its own. 0: what
	// pool_max_conns in the DSN, else two for each CPU and at least 8.
	MaxConns int

	// ConnectWait is how long Open waits for a server that is not there yet, is
	// starting or has no connection free. 0: 30 s. Negative: one attempt.
	ConnectWait time.Duration

	// Logger gets a warning while Open waits. nil: none.
	Logger *slog.Logger
}

// Store is a database of Parley's. It implements chat.Store and identity.Store,
// and is safe for concurrent use.
type Store struct {
	pool    *pgxpool.Pool
	log     *slog.Logger
	flushed *flushed
	node    atomic.Pointer[string] // under whose id outbox rows are written; nil: there is no outbox
	resumes *batch.Together[chat.SessionTake, *chat.SessionState]
}

// Open connects to a database and returns when it has answered. It does not
// migrate: see Migrate.
//
// Errors: Invalid with Field "database" for a DSN that cannot be read, for a server older
// than OldestServer, for a pooler that does not keep sessions apart, and for a setting of the
// server or the database with which an acknowledged message could be lost (the message names
// it); Unavailable, with what the server said as its message, if it did not accept a
// connection, or no writes, within Options.ConnectWait or before ctx ended. Faults that waiting
// does not cure (a wrong password, no such database) fail at once. No error shows a password.
func Open(ctx context.Context, o Options) (*Store, error) {
	const op = "store.Open"
	config, err := poolConfig(o.DSN)
	if err != nil {
		return nil, err
	}
	switch {
	case o.MaxConns > 0:
		config.MaxConns = int32(o.MaxConns)
	case !strings.Contains(o.DSN, "pool_max_conns"):
		config.MaxConns = int32(max(8, 2*runtime.GOMAXPROCS(0)))
	}
	config.MinConns = min(config.MinConns, config.MaxConns)
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler)).With("component", "store")
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, translate(op, err)
	}
	err = waitFor(ctx, o.ConnectWait, log, func(ctx context.Context) error {
		if err := refusePooler(ctx, config.ConnConfig); err != nil {
			return err
		}
		return pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
			if accepted := acceptedDemands(c.Conn()); accepted != nil {
				log.Warn("the database is used although it may lose what is stored: its "+acceptSetting+" says so", "accepted", accepted)
			}
			return nil
		})
	})
	if err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{pool: pool, log: log, flushed: newFlushed()}
	s.resumes = batch.NewTogether(resumeRuns, resumeBatch, isSameDevice, s.resumeSessions)
	return s, nil
}

// Close ends all connections, once the calls under way have returned.
func (s *Store) Close() { s.pool.Close() }

// Connections returns how many connections to the database there may be at once, those of its
// NodeLease and of a start included, but not those of a Writer.
func (s *Store) Connections() int { return int(s.pool.Config().MaxConns) + 3 }

// Ping makes a round trip to the database, or returns Unavailable.
func (s *Store) Ping(ctx context.Context) error {
	return translate("store.Ping", s.pool.Ping(ctx))
}

// WriterConfig returns the configuration of a second pool for the same database, for the
// Writer's statements. To plan one for a single message costs more than to run it. A plan that
// is kept does not know how long arrays are; here it looks up each row by an index, which is the
// right thing for few. A large batch is planned anew (freshWriterPlansSQL), and three times faster
// by that. The caller sets MaxConns.
func (s *Store) WriterConfig() *pgxpool.Config {
	config := s.pool.Config()
	onConnect(config.ConnConfig, setting{name: "enable_hashjoin", value: "off"}, setting{name: "enable_mergejoin", value: "off"})
	return config
}

// poolConfig reads a DSN into what all our connections share.
func poolConfig(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, &chat.Error{Code: chat.Invalid, Op: "store.Open", Field: "database", Msg: dsnFault(dsn, err)}
	}
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "parley"
	}
	if config.ConnConfig.ConnectTimeout == 0 || config.ConnConfig.ConnectTimeout > 2*time.Minute {
		config.ConnConfig.ConnectTimeout = 10 * time.Second // pgx's default of 2 min outlasts every caller's patience
	}
	onConnect(config.ConnConfig)
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return rawio.New(c), nil
	}
	config.MaxConnLifetimeJitter = config.MaxConnLifetime / 10
	config.AfterConnect = registerTypes
	return config, nil
}

// dsnFault says what is wrong with a DSN, without any part that could be a secret: if
// the DSN cannot be parsed into parts, nothing of the parser's message is shown.
func dsnFault(dsn string, err error) string {
	const fault = "is not a connection string; want postgres://user:password@host:5432/database (with %-escapes in the password), or host=… user=… password=… dbname=…"
	if !strings.HasPrefix(dsn, "postgres://") && !strings.HasPrefix(dsn, "postgresql://") {
		return fault
	}
	u, parseErr := url.Parse(dsn)
	if parseErr != nil {
		return fault
	}
	_, why, ok := strings.Cut(err.Error(), "`: ") // after the redacted DSN
	if !ok {
		return fault
	}
	password, _ := u.User.Password()
	for _, secret := range []string{password, u.Query().Get("password"), u.Query().Get("sslpassword")} {
		if secret != "" && strings.Contains(why, secret) {
			return fault
		}
	}
	return "cannot be used: " + why
}

// waitFor calls connect until it succeeds, fails for good, or wait is over.
func waitFor(ctx context.Context, wait time.Duration, log *slog.Logger, connect func(context.Context) error) error {
	const op = "store.Open"
	wait = cmp.Or(wait, 30*time.Second)
	if wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = chat.WithDeadline(ctx, wait, "wait for the database")
		defer cancel()
	}
	start := time.Now()
	var fault error // what the last attempt that was not cut short by ctx met
	for retry := backoff.New(20*time.Millisecond, time.Second); ; {
		err := connect(ctx)
		if fault == nil || ctx.Err() == nil {
			fault = err
		}
		var known *chat.Error
		var demanded *settingError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &known) && known.Code != chat.Unavailable:
			return known
		case errors.As(err, &demanded) && !demanded.passing:
			return &chat.Error{Code: chat.Invalid, Op: op, Field: "database", Msg: demanded.Error(), Err: err}
		case wait < 0 || !isTransient(err):
			return &chat.Error{Code: chat.Unavailable, Op: op, Field: "database", Msg: "cannot be used: " + reason(err), Err: err}
		}
		log.Warn("waiting for the database", "err", err, "elapsed_ms", time.Since(start).Milliseconds())
		if !retry.Sleep(ctx) {
			return &chat.Error{
				Code: chat.Unavailable, Op: op, Field: "database", Err: fmt.Errorf("%w: %w", context.Cause(ctx), fault),
				Msg: "did not answer within " + time.Since(start).Round(time.Millisecond).String() + ": " + reason(fault),
			}
		}
	}
}

// isTransient reports whether a failed connection may succeed a little later: the
// server is not there, is starting or stopping, or has no connection free.
func isTransient(err error) bool {
	state := sqlState(err)
	return state == "" || isUnavailableState(state)
}

// reason is the innermost and shortest text of a failed connection: what the
// server or the network said.
func reason(err error) string {
	text := err.Error()
	if demanded := (*settingError)(nil); errors.As(err, &demanded) {
		return demanded.Error()
	}
	if pg := pgError(err); pg != nil {
		return pg.Message + " (SQLSTATE " + pg.Code + ")"
	}
	return strings.Join(strings.Fields(text), " ")
}
