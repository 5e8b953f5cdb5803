package store

import (
	"context"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

// Pool lets tests run statements of their own.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// GetLogin returns a login, a revoked or expired one too, or NotFound.
func (s *Store) GetLogin(ctx context.Context, id chat.ID) (*identity.Login, error) {
	l, err := collectOne(ctx, s.pool, scanLogin, `SELECT `+loginColumns+` FROM logins WHERE id = @id`, pgx.NamedArgs{"id": id})
	return found(l, err, "store.GetLogin", "sessionId", "session", id)
}

// What the tests read without a database, or look at with EXPLAIN.
var (
	Translate     = translate
	RegisterTypes = registerTypes

	ListContactsSQL = listContactsSQL
)

// What a server of the tests' own answers to.
const (
	SetSessionSQL   = setSessionSQL
	ReadSettingsSQL = readSettingsSQL
)

// GoodSettings is how a server answers that meets all demands.
func GoodSettings() []string {
	row := []string{""}
	for _, d := range demands {
		row = append(row, d.want)
	}
	return row
}

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
	LocateMessagesSQL = locateMessagesSQL
	MoveReadsSQL      = moveReadsSQL
	MoveDeliveredSQL  = moveDeliveredSQL
	ReadBySQL         = readBySQL
)

// LeaseConn is the connection of l.
func LeaseConn(l *NodeLease) *pgx.Conn { return l.conn }

// LoseConnection takes the connection away from l, as if its line had gone silent.
func LoseConnection(l *NodeLease) *pgx.Conn {
	conn := l.conn
	l.conn = nil
	return conn
}

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

// Index indexes all logs to their end.
func Index(ctx context.Context, s *Store) error {
	x := NewIndexer(s, IndexerOptions{Gather: 1})
	x.scanning = true
	for {
		worked, err := x.work(ctx)
		if err != nil || !worked && !x.scanning {
			return err
		}
	}
}

// IndexStep is one step of x for a conversation.
func IndexStep(ctx context.Context, x *Indexer, conversation chat.ID) (indexed, left int, err error) {
	return x.step(ctx, conversation)
}

// Waiting is how many events x has counted that are not indexed.
func Waiting(x *Indexer) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.waiting
}

// Statements of the search whose plans are tested.
const (
	SearchedSQL       = searchedSQL
	SearchLogSQL      = searchLogSQL
	SearchSegmentsSQL = searchSegmentsSQL
	SegmentEvents     = segmentEvents
)

// CollectEvents is collectEvents.
func CollectEvents(ctx context.Context, conn *pgx.Conn) ([]chat.Event, error) {
	return collectEvents(ctx, conn, 1, `SELECT `+eventColumns+` FROM events`)
}

// OldestMark is oldestMark.
const OldestMark = oldestMark

// Steps returns the steps in a folder and the oldest binaries that they name, 0 for none.
func Steps(files fs.ReadDirFS) (versions, oldest []int64, err error) {
	all, err := steps(files)
	for _, s := range all {
		text, _ := fs.ReadFile(files, s.file)
		if _, ok := declared(string(text)); !ok {
			s.oldest = 0
		}
		versions, oldest = append(versions, s.version), append(oldest, s.oldest)
	}
	return versions, oldest, err
}
