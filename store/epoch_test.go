package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// node is a node with a lease, as one that has just started.
func startNode(t *testing.T, s *store.Store, name string) (*store.NodeLease, *store.Witness) {
	t.Helper()
	w := &store.Witness{}
	l, err := s.AcquireNodeLease(t.Context(), store.NodeLeaseOptions{Node: name, ID: name, Duration: time.Minute, Epoch: epochOf(t, s), Witness: w}, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close(context.WithoutCancel(t.Context())) })
	heartbeat(t, l)
	return l, w
}

func epochOf(t *testing.T, s *store.Store) chat.LogEpoch {
	t.Helper()
	epoch, err := s.Epoch(t.Context())
	if err != nil || len(epoch) != 8 {
		t.Fatalf("epoch %q, %v", epoch, err)
	}
	return epoch
}

// settledDSN is a database that a server has started on.
func settledDSN(t *testing.T) string {
	t.Helper()
	dsn := storetest.DSN(t)
	if _, _, err := store.Migrate(t.Context(), dsn, nil); err != nil {
		t.Fatal(err)
	}
	return dsn
}

// A node that runs notices that the log is not the one that it knows: when an operator says
// so, when a dump is restored under it, and when it has lost its connection and the database
// it finds lacks what it has stored. It notices nothing when it has only lost its connection,
// also if another server has taken over with everything.
func TestNodeNoticesSetBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		after func(t *testing.T, s *store.Store, dsn string)
		want  bool
	}{
		{"an operator says so", func(t *testing.T, s *store.Store, _ string) {
			if err := s.SetBack(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"a dump is restored", func(t *testing.T, _ *store.Store, dsn string) { storetest.Restore(t, dsn, storetest.Dump(t, dsn)) }, true},
		{"a fail-over that loses the last event", func(t *testing.T, s *store.Store, _ string) {
			exec(t, s, `DELETE FROM events WHERE seq = 3`)
			exec(t, s, `UPDATE conversations SET last_seq = 2`)
			exec(t, s, `UPDATE sync_origin SET timeline = timeline + 1`)
			exec(t, s, cutLeasesSQL)
		}, true},
		{"a fail-over that loses nothing", func(t *testing.T, s *store.Store, _ string) {
			exec(t, s, `UPDATE sync_origin SET timeline = timeline + 1`)
			exec(t, s, cutLeasesSQL)
		}, false},
		{"its connection is cut", func(t *testing.T, s *store.Store, _ string) { exec(t, s, cutLeasesSQL) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dsn := settledDSN(t)
			s := storetest.Open(t, dsn)
			u := users(t, s, 2)
			g := group(t, s, now, u...)
			post(t, s, g.ID, u[1], 2)
			l, w := startNode(t, s, "a")
			log, err := s.ReadLog(t.Context(), u[0], g.ID, 0, 10)
			if err != nil || len(log) != 3 {
				t.Fatal(log, err)
			}
			for i := range log {
				w.Note(&log[i])
			}
			before := epochOf(t, s)
			tt.after(t, s, dsn)
			for range 3 { // the first one may find that its connection is cut
				if _, err = l.Heartbeat(t.Context()); err == nil || errors.Is(err, chat.ErrSetBack) {
					break
				}
			}
			if got := errors.Is(err, chat.ErrSetBack); got != tt.want || tt.want != (epochOf(t, s) != before) {
				t.Fatalf("Heartbeat: %v; epoch %s, was %s", err, epochOf(t, s), before)
			}
			if err == nil {
				if _, _, err := store.Migrate(t.Context(), dsn, nil); err != nil || epochOf(t, s) != before {
					t.Errorf("the next start: %v, epoch %s, want %s", err, epochOf(t, s), before)
				}
			} else if chat.CodeOf(err) != chat.Conflict {
				t.Errorf("code %v", chat.CodeOf(err))
			}
		})
	}
}

const cutLeasesSQL = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'parley node %' AND datname = current_database()`

// A start sees what the database does not share with the one that its id was drawn for.
func TestStartNoticesSetBack(t *testing.T) {
	t.Parallel()
	for change, want := range map[string]bool{
		`SELECT`: false,
		`UPDATE sync_origin SET database_oid = database_oid + 1`:                                      true,
		`UPDATE sync_origin SET table_oid = table_oid + 1`:                                            true,
		`UPDATE sync_origin SET timeline = timeline + 1`:                                              true,
		`UPDATE sync_origin SET system_identifier = 1`:                                                true,
		`UPDATE sync_origin SET database_oid = 0, table_oid = 0, timeline = 0, system_identifier = 0`: false, // by a former version
		`DELETE FROM sync_origin`:                                                                     true,
	} {
		t.Run(change, func(t *testing.T) {
			t.Parallel()
			dsn := settledDSN(t)
			s := storetest.Open(t, dsn)
			before := epochOf(t, s)
			exec(t, s, change)
			for range 2 {
				if _, _, err := store.Migrate(t.Context(), dsn, nil); err != nil {
					t.Fatal(err)
				}
				if after := epochOf(t, s); (after != before) != want {
					t.Errorf("the epoch was %s and is %s", before, after)
				}
				before, want = epochOf(t, s), false
			}
		})
	}
}

// What a node that still ran has saved after the database was set back does not outlive the
// new epoch: its sessions do not reach beyond the ends of their logs, and it saves nothing
// more.
func TestSessionsAfterSetBack(t *testing.T) {
	t.Parallel()
	dsn := settledDSN(t)
	s := storetest.Open(t, dsn)
	u := users(t, s, 2)
	g := group(t, s, now, u...)
	post(t, s, g.ID, u[1], 4)
	take := chat.SessionTake{UserID: u[0], ClientID: "phone", Node: "a", Now: now, Expiry: time.Hour}
	st, err := s.TakeSession(t.Context(), take)
	if err != nil {
		t.Fatal(err)
	}
	sub := chat.SubscriptionChange{SessionID: st.ID, Epoch: st.Epoch, UserID: u[0], All: true}
	if _, err := s.ChangeSubscriptions(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	exec(t, s, `DELETE FROM events WHERE seq > 3`) // the log is set back to event 3; the session remembers 5
	exec(t, s, `UPDATE conversations SET last_seq = 3`)
	if err := s.SetBack(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	late := []chat.CursorUpdate{{SessionID: st.ID, Epoch: st.Epoch, ConversationID: g.ID, Acked: 5}}
	if err := s.SaveCursors(t.Context(), late, nil); err != nil {
		t.Fatal(err)
	}
	st, err = s.TakeSession(t.Context(), take)
	if err != nil || !st.Present || len(st.Cursors) != 1 || st.Cursors[0].Acked != 3 {
		t.Errorf("the session is %+v, %v, want one with a cursor at 3", st, err)
	}
}
