package presence

import (
	"context"
	"time"

	"github.com/parleymq/parley/chat"
)

// NodeID names one life of a node.
type NodeID struct {
	Name string // no two nodes of one name run at once
	ID   string // of this life: another one after each start, and after an eviction
}

// NodePresence is how a user's devices at one node are, taken together.
type NodePresence struct {
	UserID       chat.ID
	Status       chat.Status // Online, Away, or Offline: none is there
	Invisible    *bool       // what a device has said since the last time; nil: nothing
	LastOnlineAt time.Time   // when a device was last there, if none is or the user is invisible; zero: never
}

// State is how a user is, by all nodes together.
type State struct {
	UserID       chat.ID
	Status       chat.Status // how they are shown to others: Online, Away, or Offline (also empty)
	Invisible    bool
	LastOnlineAt time.Time // when others last saw them online; zero: never. Not kept up while they are
	Version      int64     // rises with every change of Status and Invisible
}

// Outcome is what has become of a user by what was just stored.
type Outcome struct {
	State
	Changed bool        // Status or Invisible has
	Was     chat.Status // Status before
}

// DeadNode is a life of a node that has ended.
type DeadNode struct {
	NodeID
	SeenAt time.Time // its last sign of life, by the database's clock
}

// ContactChange says that members of A and members of B have become contacts, or ceased to
// be.
type ContactChange struct {
	ID   chat.ID
	A, B []chat.ID
}

// Cursor says which changes were seen. It is the store's to read; the zero value begins with
// what changes from now on.
type Cursor struct {
	Since, Next     string
	Users, Contacts PageKey
	Version         int64 // no State had a higher one when Next was taken
}

// PageKey is a position in one of the lists of changes.
type PageKey struct {
	Changed string
	ID      chat.ID
}

// Changes is what has changed: each change is in the Changes of every cursor that was taken
// before it, however long its transaction took.
type Changes struct {
	States   []State
	Contacts []ContactChange
	Cursor   Cursor // to go on from
	More     bool   // there is more now
}

// Store keeps presence in the database. All methods block for a round trip or two, return
// chat errors, and may be repeated.
type Store interface {
	// ListContacts returns the contacts of each of the users; only those among the given ones,
	// if that is not nil.
	ListContacts(ctx context.Context, users, among []chat.ID) (map[chat.ID][]chat.ID, error)
	// Acquainted reports whether two users share a conversation that makes contacts, whether
	// or not one has blocked the other.
	Acquainted(ctx context.Context, a, b chat.ID) (bool, error)
	// ListBlocked returns the pairs among the users of whom the first has blocked the second.
	ListBlocked(ctx context.Context, users []chat.ID) ([][2]chat.ID, error)
	// ListContactPresences returns up to limit contacts of the user in the order of their ids,
	// those behind after; only those in of, if that is not nil. Invisible is not set.
	ListContactPresences(ctx context.Context, user chat.ID, of []chat.ID, after chat.ID, limit int) ([]State, error)
	// GetPresences returns what is stored of the users; those of whom nothing is are left out.
	GetPresences(ctx context.Context, users []chat.ID) (map[chat.ID]State, error)
	// PutNodePresences stores how users are at the node, each named once, and returns how they
	// are shown by that: as the best of what all nodes have put, unless they are invisible.
	// LastOnlineAt never goes back.
	PutNodePresences(ctx context.Context, node NodeID, list []NodePresence) ([]Outcome, error)
	// ReleaseNode removes up to limit NodePresences of a dead node and returns those users who
	// are shown otherwise by that. done reports that none were left; then it has also ended
	// what the node put when it knew of no others, or by an older Parley.
	ReleaseNode(ctx context.Context, dead DeadNode, limit int) (changed []State, done bool, err error)
	// ListDeadNodes returns up to 100 lives of nodes that have NodePresences and have been
	// silent for so long, and former lives of own.
	ListDeadNodes(ctx context.Context, own NodeID, silent time.Duration) ([]DeadNode, error)
	// NodeSeen returns the time of a node's last heartbeat (zero: none) and the time now,
	// both by the database's clock.
	NodeSeen(ctx context.Context, node string) (seen, now time.Time, err error)
	// ListPresenceChanges returns up to limit users, and up to limit changes of contacts, that
	// have changed since the cursor.
	ListPresenceChanges(ctx context.Context, c Cursor, limit int) (*Changes, error)
	// PutContactChange keeps a change of contacts for some minutes, for nodes that miss the
	// notice.
	PutContactChange(ctx context.Context, c ContactChange) error
	// DeleteContactChanges removes those that every node has had the time to find.
	DeleteContactChanges(ctx context.Context) error
}

// shown is how the user is shown to others.
func (st *State) shown() chat.Presence {
	p := chat.Presence{UserID: st.UserID, Status: st.Status}
	if p.Status != chat.Online && p.Status != chat.Away {
		p.Status, p.LastOnlineAt = chat.Offline, st.LastOnlineAt
	}
	return p
}

// own is how the user is shown to themselves.
func (st *State) own() chat.Presence {
	if st.Invisible {
		return chat.Presence{UserID: st.UserID, Status: chat.Invisible}
	}
	return st.shown()
}
