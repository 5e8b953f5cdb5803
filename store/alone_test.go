package store_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func TestAlone(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	first, second := storetest.Open(t, dsn), storetest.Open(t, dsn)
	a, err := first.TakeAlone(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.Run(ctx) }()
	if _, err := second.TakeAlone(t.Context(), time.Second); chat.CodeOf(err) != chat.Conflict {
		t.Errorf("a second node took the place: %v", err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	b, err := second.TakeAlone(t.Context(), time.Second)
	if err != nil {
		t.Fatalf("the place was not given up: %v", err)
	}

	// A node whose connection was cut, and whose place another one has taken
	// meanwhile, ends.
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'parley node %' AND datname = current_database()"); err != nil {
		t.Fatal(err)
	}
	c, err := first.TakeAlone(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); chat.CodeOf(err) != chat.Conflict {
		t.Errorf("the node that lost its place went on: %v", err)
	}
	ctx, stop = context.WithCancel(t.Context())
	stop()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}

// A line to the database went silent for a moment: the node connected anew, found
// its own former connection in the place, took it for another node and ended. The
// campaign found it.
func TestAloneAfterSilence(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	a, err := s.TakeAlone(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	lost := store.LoseAlone(a) // the database does not know yet
	defer func() { _ = lost.Close(context.WithoutCancel(t.Context())) }()
	for chat.CodeOf(store.CheckAlone(t.Context(), a)) == chat.Unavailable { // until the former connection is gone
	}
	if err := store.CheckAlone(t.Context(), a); err != nil {
		t.Fatal("the node did not get its own place back:", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
}
