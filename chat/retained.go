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
}

// RetainedStore keeps retained messages. All methods block for a round trip or a few
// and return chat errors; Unavailable may be repeated.
type RetainedStore interface {
	// PutRetained stores changes of different topics in one transaction. refused tells
	// of those that were left out because their user has as many as they may
	// (MaxRetainedByUser), or because there are too many altogether, if full says so; it
	// is as long as changes, and nil for the others.
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
