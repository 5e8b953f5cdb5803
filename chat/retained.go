package chat

import (
	"context"
	"time"
)

// RetainedChange is what a publication with the RETAIN flag does to the retained
// message of its topic: it takes its place, or removes it if it has no payload
// (MQTT 5.0, 3.3.1.3).
type RetainedChange struct {
	*Publication
	UserID ID // who has published it

	// ClientID and Epoch name the connection that it came over, or whose will it is; 0: it
	// has no number. It is refused if the device has a newer connection, at any node.
	ClientID string
	Epoch    int64

	CheckOnly bool // nothing is retained: only that is asked
}

// RetainedStore keeps retained messages. All methods block for a round trip or a few
// and return chat errors; Unavailable may be repeated.
type RetainedStore interface {
	// PutRetained stores changes in one transaction; of several to one topic the last one
	// counts. refused tells of those that were
	// left out because their user has as many as they may (MaxRetainedByUser), because there
	// are too many altogether, if full says so, or because they came over a connection that
	// another node has superseded (Unavailable); it is as long as changes, and nil for the
	// others.
	PutRetained(ctx context.Context, changes []RetainedChange, full bool, now time.Time) (refused []error, err error)
	// ListRetainedTopics returns up to limit topics of a space that have a level more than
	// below ("": all of them) and come after a topic, in the order of their bytes. Some of
	// the messages may have expired.
	ListRetainedTopics(ctx context.Context, space ID, below, after string, limit int) ([]string, error)
	// GetRetained returns the retained messages of the named topics of a space that have
	// not expired, in any order, each with Retain set.
	GetRetained(ctx context.Context, space ID, topics []string, now time.Time) ([]*Publication, error)
	// CountRetained returns how many retained messages there are.
	CountRetained(ctx context.Context) (int64, error)
	// DeleteExpiredRetained removes up to limit messages that have expired, and returns
	// how many.
	DeleteExpiredRetained(ctx context.Context, now time.Time, limit int) (int64, error)
}
