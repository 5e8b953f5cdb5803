package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestTranslate(t *testing.T) {
	t.Parallel()
	state := func(code, constraint string) error {
		return fmt.Errorf("insert: %w", &pgconn.PgError{Code: code, ConstraintName: constraint})
	}
	tests := []struct {
		err   error
		code  chat.Code
		field string
	}{
		{state("23505", "users_username_unique"), chat.Conflict, "username"},
		{state("23505", "users_email_unique"), chat.Conflict, "email"},
		{state("23505", "some_other"), chat.Conflict, ""},
		{state("23514", "events_content_length"), chat.TooLarge, "content"},
		{state("23514", "some_other"), chat.Invalid, ""},
		{state("23503", "logins_user"), chat.NotFound, "userId"},
		{state("23503", "some_other"), chat.NotFound, ""},
		{state("23502", ""), chat.Internal, ""},
		{state("22021", ""), chat.Invalid, ""},
		{state("22P05", ""), chat.Invalid, ""},
		{state("42P01", ""), chat.Internal, ""},
		{state("XX000", ""), chat.Internal, ""},
		{state("08006", ""), chat.Unavailable, ""},
		{state("25006", ""), chat.Unavailable, ""}, // a replica
		{state("25P03", ""), chat.Unavailable, ""},
		{state("40001", ""), chat.Unavailable, ""},
		{state("40P01", ""), chat.Unavailable, ""},
		{state("53100", ""), chat.Unavailable, ""}, // disk full
		{state("53300", ""), chat.Unavailable, ""},
		{state("55P03", ""), chat.Unavailable, ""},
		{state("57014", ""), chat.Unavailable, ""},
		{state("57P01", ""), chat.Unavailable, ""},
		{state("57P02", ""), chat.Unavailable, ""},
		{state("57P03", ""), chat.Unavailable, ""},
		{state("58030", ""), chat.Unavailable, ""},
		{context.DeadlineExceeded, chat.Unavailable, ""},
		{context.Canceled, chat.Unavailable, ""},
		{io.ErrUnexpectedEOF, chat.Unavailable, ""},
		{net.ErrClosed, chat.Unavailable, ""},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, chat.Unavailable, ""},
		{pgx.ErrNoRows, chat.NotFound, ""},
		{errors.New("something else"), chat.Internal, ""},
	}
	for _, tt := range tests {
		t.Run(tt.err.Error(), func(t *testing.T) {
			err := store.Translate("store.Test", tt.err)
			wantError(t, err, tt.code, tt.field)
			if !errors.Is(err, tt.err) {
				t.Errorf("%v has lost its cause", err)
			}
		})
	}
	t.Run("nil", func(t *testing.T) {
		if err := store.Translate("store.Test", nil); err != nil {
			t.Errorf("Translate(nil) = %v", err)
		}
	})
	t.Run("translated before", func(t *testing.T) {
		was := &chat.Error{Code: chat.Forbidden, Op: "store.Other"}
		if err := store.Translate("store.Test", was); err != error(was) {
			t.Errorf("Translate(%v) = %v", was, err)
		}
	})
}

// What really happens to connections is Unavailable, and the next call works.
func TestUnavailable(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	works := func(t *testing.T) {
		t.Helper()
		if _, err := s.ListPositions(t.Context(), chat.NewID()); err != nil {
			t.Errorf("the call after it: %v", err)
		}
	}
	t.Run("the caller's time is over", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		tx, err := s.Pool().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(t.Context())
		if _, err := tx.Exec(t.Context(), "LOCK TABLE participants"); err != nil {
			t.Fatal(err)
		}
		_, err = s.ListPositions(ctx, chat.NewID())
		wantError(t, err, chat.Unavailable, "")
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		works(t)
	})
	t.Run("the caller went away", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := s.ListPositions(ctx, chat.NewID())
		wantError(t, err, chat.Unavailable, "")
		works(t)
	})
	t.Run("all connections killed", func(t *testing.T) {
		exec(t, s, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		_, err := s.Pool().Exec(t.Context(), `SELECT pg_terminate_backend(pg_backend_pid())`)
		wantError(t, store.Translate("store.Test", err), chat.Unavailable, "")
		for range s.Pool().Config().MaxConns { // each call may meet another connection that is dead and not known to be
			if _, err = s.ListPositions(t.Context(), chat.NewID()); err == nil {
				return
			}
			wantError(t, err, chat.Unavailable, "")
		}
		works(t)
	})
	t.Run("read-only", func(t *testing.T) {
		s := storetest.New(t)
		exec(t, s, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$`)
		s.Pool().Reset()
		_, err := s.RevokeUser(t.Context(), chat.NewID(), chat.ID{}, now)
		wantError(t, err, chat.Unavailable, "")
	})
	t.Run("closed", func(t *testing.T) {
		s := storetest.New(t)
		s.Close()
		wantError(t, s.Ping(t.Context()), chat.Unavailable, "")
	})
}
