package chat

import (
	"context"
	"sync"
	"time"
)

// Limits of a search.
const (
	MaxSearchBytes = 256 // of what is looked for
	MaxSearchWords = 16  // in it
	// MaxRanked is how many messages are compared by rank: the newest that match.
	MaxRanked = 10_000
	// maxSearches is how many run at once; they share the pool with what is urgent.
	maxSearches = 4
	// maxUserSearches is how many of one user run or wait.
	maxUserSearches = 2

	searchPatience = 10 * time.Second
)

// MessageSearch asks for messages by words.
type MessageSearch struct {
	UserID         ID        // who asks: only messages that they may read are found
	Text           string    // words: all of them must be there, each at the beginning of a word; "in quotes": just so
	ConversationID ID        // only in this one; zero: in all of the user's
	SenderID       ID        // only by this one; zero: by anybody
	Before         time.Time // only older than this; zero: whenever
	ByRank         bool      // best first, of the newest MaxRanked; otherwise newest first
	After          SearchCursor
	Limit          int // 1 to MaxPageSize
}

// SearchCursor is the key of the last message of a page, and for pages by rank what
// they are the pages of. Zero: from the start.
type SearchCursor struct {
	CreatedAt time.Time
	ID        ID
	Rank      float32
	Until     time.Time // by rank: only messages up to the first page's time, so that the pages fit together
}

// IsZero reports whether the cursor means "from the start".
func (c SearchCursor) IsZero() bool { return c.ID.IsZero() }

// SearchHit is a message that was found.
type SearchHit struct {
	Message   Event
	Reactions []ReactionCount // to it, those used first before others
	Excerpt   []ExcerptPart   // a piece of the message's content, in parts
	Rank      float32         // by rank: how well it fits; comparable within one search
}

// ExcerptPart is a part of an excerpt.
type ExcerptPart struct {
	Text  string
	Match bool // is what was looked for
}

// SearchPage is one page of what was found.
type SearchPage struct {
	Items []SearchHit
	Next  SearchCursor // zero: no more
}

// SearchStore finds messages.
type SearchStore interface {
	// SearchMessages returns a page of the messages whose present text matches, and
	// that the user may read now. A message is found a moment after it was stored.
	// Invalid naming "q" if the text cannot be looked for; NotFound if the user is
	// not a member of the conversation.
	SearchMessages(ctx context.Context, q MessageSearch) (*SearchPage, error)
}

// searches bounds what searching may take from everything else.
type searches struct {
	running chan struct{} // full: the next one waits

	mu sync.Mutex
	of map[ID]int // mu guards: how many of each user run or wait
}

func newSearches() *searches {
	return &searches{running: make(chan struct{}, maxSearches), of: map[ID]int{}}
}

// begin waits for the user's turn and returns what ends it; Quota if they have as
// many under way as they may, Unavailable if ctx ends first.
func (s *searches) begin(ctx context.Context, user ID) (end func(), err error) {
	s.mu.Lock()
	if s.of[user] >= maxUserSearches {
		s.mu.Unlock()
		return nil, &Error{Code: Quota, Op: "chat.Search", RetryAfter: time.Second, Msg: "you have " + itoa(maxUserSearches) + " searches under way already"}
	}
	s.of[user]++
	s.mu.Unlock()
	leave := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.of[user]--; s.of[user] == 0 {
			delete(s.of, user)
		}
	}
	select {
	case s.running <- struct{}{}:
		return func() { <-s.running; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, &Error{Code: Unavailable, Op: "chat.Search", Msg: "too many search at the moment; try again", Err: context.Cause(ctx)}
	}
}

// SearchMessages finds messages in the user's conversations by their words. It waits
// for its turn and for the store, for at most searchPatience.
func (s *Service) SearchMessages(ctx context.Context, q MessageSearch) (*SearchPage, error) {
	ctx, cancel := WithDeadline(ctx, searchPatience, "chat.SearchMessages")
	defer cancel()
	end, err := s.searches.begin(ctx, q.UserID)
	if err != nil {
		return nil, err
	}
	defer end()
	if q.ByRank && q.After.IsZero() {
		q.After.Until = Timestamp(s.clock.Now())
	}
	return s.store.SearchMessages(ctx, q)
}
