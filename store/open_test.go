package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestOpen(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	for sql, want := range map[string]string{
		`SELECT current_setting('application_name')`: "parley",
		`SELECT current_setting('plan_cache_mode')`:  "force_generic_plan",
	} {
		var got string
		if err := s.Pool().QueryRow(t.Context(), sql).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", sql, got, err, want)
		}
	}
}

// No way of writing a DSN wrongly, and no way for it to fail, shows its password.
func TestOpenHidesPasswords(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, dsn := range []string{
		"postgres://parley:hunter2@127.0.0.1:1/parley",
		"postgres://parley:hunter2@127.0.0.1:1/parley?sslmode=nonsense",
		"postgres://parley:hunter2%zz@127.0.0.1:1/parley",
		"postgres://parley:hunter2/x@127.0.0.1:1/parley",
		"postgres://parley:hunter2#x@127.0.0.1:1/parley",
		"postgres://parley:x@hunter2@127.0.0.1:port/parley",
		"postgres://parley:x:hunter2@[127.0.0.1:1/parley",
		"postgres://127.0.0.1:1/parley?user=parley&password=hunter2&sslmode=nonsense",
		"postgres://127.0.0.1:1/parley?user=parley&password=hunter2&connect_timeout=hunter2",
		"host=127.0.0.1 port=1 user=parley password=hunter2",
		"host=127.0.0.1 port=1 user=parley password='a\\'hunter2' sslmode=nonsense",
		"host=127.0.0.1 port=x user=parley password='hunter2",
		"host=127.0.0.1 user=parley password = hunter2 port=x",
		"//parley:hunter2@127.0.0.1:1/parley",
		"hunter2",
	} {
		t.Run(dsn, func(t *testing.T) {
			t.Parallel()
			var logged bytes.Buffer
			o := store.Options{DSN: dsn, ConnectWait: 30 * time.Millisecond, Logger: slog.New(slog.NewJSONHandler(&logged, nil))}
			s, err := store.Open(t.Context(), o)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), chat.PublicMessage(err), logged.String()} {
				if strings.Contains(text, secret) {
					t.Errorf("password in %s", text)
				}
			}
			_, _, err = store.Migrate(t.Context(), dsn, nil)
			if err == nil || strings.Contains(err.Error(), secret) {
				t.Errorf("password in %v", err)
			}
		})
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	t.Run("not a DSN", func(t *testing.T) {
		t.Parallel()
		_, err := store.Open(t.Context(), store.Options{DSN: "port=x"})
		wantError(t, err, chat.Invalid, "database")
	})
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		start := time.Now()
		_, err := store.Open(t.Context(), store.Options{DSN: "host=127.0.0.1 port=1", ConnectWait: 2 * time.Second})
		e := wantError(t, err, chat.Unavailable, "database")
		if !strings.Contains(e.Msg, "refused") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v does not say why", err)
		}
		if took := time.Since(start); took < 2*time.Second {
			t.Errorf("gave up after %v", took)
		}
	})
	t.Run("no waiting", func(t *testing.T) {
		t.Parallel()
		_, err := store.Open(t.Context(), store.Options{DSN: "host=127.0.0.1 port=1", ConnectWait: -1})
		wantError(t, err, chat.Unavailable, "database")
	})
	t.Run("no such database", func(t *testing.T) {
		t.Parallel()
		dsn := storetest.EmptyDSN(t)
		config, err := pgx.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		dsn = strings.Replace(dsn, config.Database, "no_"+config.Database, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err = store.Open(ctx, store.Options{DSN: dsn, ConnectWait: time.Hour})
		e := wantError(t, err, chat.Unavailable, "database")
		if !strings.Contains(e.Msg, "does not exist") {
			t.Errorf("error %v does not say why", err)
		}
		if ctx.Err() != nil {
			t.Error("it waited for what will not come")
		}
	})
	t.Run("the caller's time is over", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := store.Open(ctx, store.Options{DSN: "host=127.0.0.1 port=1"})
		wantError(t, err, chat.Unavailable, "database")
	})
	t.Run("too old", func(t *testing.T) {
		t.Parallel()
		dsn := fakeServer(t, "13.22 (Debian 13.22-1)", 0)
		_, err := store.Open(t.Context(), store.Options{DSN: dsn})
		e := wantError(t, err, chat.Invalid, "database")
		if want := "is PostgreSQL 13.22 (Debian 13.22-1); Parley needs 14 or newer"; e.Msg != want {
			t.Errorf("Msg = %q, want %q", e.Msg, want)
		}
		_, _, err = store.Migrate(t.Context(), dsn, nil)
		wantError(t, err, chat.Invalid, "database")
	})
}

// A server that is starting says so to the first connections.
func TestOpenWaits(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"14.0", "18beta1", "99.1", "unheard of"} {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			s, err := store.Open(t.Context(), store.Options{DSN: fakeServer(t, version, 3)})
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
		})
	}
}

// fakeServer lets clients in as PostgreSQL of the version, after it has refused
// some because it is "starting up". It returns its DSN.
func fakeServer(t *testing.T, version string, refuse int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { l.Close(); wg.Wait() })
	wg.Go(func() { // ends when the listener is closed
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			refused := refuse > 0
			refuse--
			wg.Go(func() { // ends when the client goes
				defer conn.Close()
				serveFake(conn, version, refused)
			})
		}
	})
	return "postgres://parley:x@" + l.Addr().String() + "/parley?sslmode=disable"
}

func serveFake(conn net.Conn, version string, refuse bool) {
	b := pgproto3.NewBackend(conn, conn)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	if refuse {
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "57P03", Message: "the database system is starting up"})
		_ = b.Flush()
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	b.Send(&pgproto3.ParameterStatus{Name: "server_version", Value: version})
	b.Send(&pgproto3.ParameterStatus{Name: "standard_conforming_strings", Value: "on"})
	b.Send(&pgproto3.BackendKeyData{ProcessID: 1, SecretKey: []byte{1, 2, 3, 4}})
	b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
	if b.Flush() != nil {
		return
	}
	var sql, session string
	for {
		m, err := b.Receive()
		if err != nil {
			return
		}
		switch m := m.(type) {
		case *pgproto3.Parse:
			sql = m.Query
			b.Send(&pgproto3.ParseComplete{})
		case *pgproto3.Bind:
			if sql == store.SetSessionSQL {
				session = string(m.Parameters[0])
			}
			b.Send(&pgproto3.BindComplete{})
		case *pgproto3.Describe:
			b.Send(&pgproto3.RowDescription{Fields: []pgproto3.FieldDescription{{Name: []byte("v"), DataTypeOID: 25, DataTypeSize: -1}}})
		case *pgproto3.Execute:
			rows := []string{session}
			if sql == store.ReadSettingsSQL {
				rows = store.GoodSettings()
			}
			for _, v := range rows {
				b.Send(&pgproto3.DataRow{Values: [][]byte{[]byte(v)}})
			}
			b.Send(&pgproto3.CommandComplete{CommandTag: []byte("SELECT")})
		case *pgproto3.Sync:
			b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			if b.Flush() != nil {
				return
			}
		}
	}
}
