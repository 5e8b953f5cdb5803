package store

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pool lets tests run statements of their own.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// What the tests read without a database, or look at with EXPLAIN.
var (
	Translate     = translate
	RegisterTypes = registerTypes
)

// Statements whose plans are tested.
const (
	OlderMessagesSQL  = olderMessagesSQL
	NewerMessagesSQL  = newerMessagesSQL
	MessagesAroundSQL = messagesAroundSQL
	GetMessageSQL     = getMessageSQL
	ReadLogSQL        = readLogSQL
	ListConversations = listConversationsSQL
	MissingUserSQL    = missingUserSQL
	SearchUsersSQL    = searchUsersSQL
)

// LoseAlone takes the connection away from a, as if its line had gone silent.
func LoseAlone(a *Alone) *pgx.Conn {
	conn := a.conn
	a.conn = nil
	return conn
}

// CheckAlone is what Run does at each tick.
func CheckAlone(ctx context.Context, a *Alone) error { return a.check(ctx) }

// Room is room.
type Room struct{ r room }

// NewRoom is newRoom.
func NewRoom(limit int) *Room { return &Room{newRoom(limit)} }

// TryTake is tryTake.
func (r *Room) TryTake(n int) bool { return r.r.tryTake(n) }

// Take is take.
func (r *Room) Take(ctx context.Context, n int) bool { return r.r.take(ctx, n) }

// Give is give.
func (r *Room) Give(n int) { r.r.give(n) }

// ParseSnapshot returns the snapshot's text again.
func ParseSnapshot(text string) (string, bool) {
	s, ok := parseSnapshot(text)
	return s.String(), ok
}

// ParseSyncCursor returns the cursor's bytes again, and its snapshots.
func ParseSyncCursor(b []byte) ([]byte, []string, bool) {
	c, ok := parseSyncCursor(b)
	if !ok {
		return nil, nil, false
	}
	snapshots := []string{c.seen.String()}
	if c.section != syncDone {
		snapshots = append(snapshots, c.until.String())
	}
	return c.encode(), snapshots, true
}
