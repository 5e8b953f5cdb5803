package chat

import (
	"context"
	"time"
)

// NodeID names one life of a node.
type NodeID struct {
	Name string // of which no two run at once
	ID   string // of this life: another one for each start, and after it was declared dead
}

// Place is how a user's devices at one node are together.
type Place struct {
	UserID       ID
	Status       Status    // Online, Away, or Offline: none is here
	Invisible    *bool     // what a device has said since the last time; nil: nothing
	LastOnlineAt time.Time // when a device was here last, if none is or the user is invisible; zero: never
}

// PlaceOutcome is what has become of a user by their places at all nodes.
type PlaceOutcome struct {
	PresenceState
	Changed bool // by what was just stored
}

// DeadNode is a life of a node that has ended.
type DeadNode struct {
	Name   string
	ID     string    // of the life; empty: all of that name that have places, but for the present one of the node that asks
	SeenAt time.Time // its last sign of life, by the database's clock; zero: as stored in nodes
}

// ContactChange says that members of A and members of B have become contacts, or
// ceased to be.
type ContactChange struct {
	ID   ID
	A, B []ID
}

// PresencePlace is a place in one of the lists of what has changed.
type PresencePlace struct {
	Changed string
	ID      ID
}

// PresenceCursor says which changes were seen. It is the store's to read; the zero
// value begins with what changes from now on.
type PresenceCursor struct {
	Since, Next     string
	Users, Contacts PresencePlace
	Version         int64 // no presence had a higher one when Next was taken
}

// PresenceChanges is what has changed: each change is in the changes of every cursor
// that was taken before it, however long its transaction took.
type PresenceChanges struct {
	States   []PresenceState
	Contacts []ContactChange
	Cursor   PresenceCursor // to go on from
	More     bool           // at once: there is more
}

// PlaceStore keeps who is here at which of several nodes. All methods block for a
// round trip or two, return chat errors, and may be repeated.
type PlaceStore interface {
	// PutPlaces stores how users are at the node, and returns for each how they are
	// shown by that: of those places that all nodes have put the best, unless they are
	// invisible. LastOnlineAt never goes back.
	PutPlaces(ctx context.Context, node NodeID, list []Place) ([]PlaceOutcome, error)
	// ReleasePlaces takes away up to limit places of a dead node, returns those users
	// who are shown otherwise by that, and reports whether there may be more. own is
	// the node that asks.
	ReleasePlaces(ctx context.Context, dead DeadNode, own NodeID, limit int) ([]PlaceOutcome, bool, error)
	// ListDeadNodes returns lives of nodes that have places and have been silent for so
	// long, former lives of own among them; at most 100.
	ListDeadNodes(ctx context.Context, own NodeID, silent time.Duration) ([]DeadNode, error)
	// NodeSeen returns when a node was last seen alive, and the time now, both by the
	// database's clock; zero: never.
	NodeSeen(ctx context.Context, node string) (seen, now time.Time, err error)
	// ListPresenceChanges returns up to limit users, and limit changes of contacts, that
	// have changed since the cursor.
	ListPresenceChanges(ctx context.Context, c PresenceCursor, limit int) (*PresenceChanges, error)
	// PutContactChange keeps a change of contacts for a while, for nodes that do not hear of it.
	PutContactChange(ctx context.Context, c ContactChange) error
	// DeleteContactChanges forgets those that every node has had the time to find.
	DeleteContactChanges(ctx context.Context) error
}
