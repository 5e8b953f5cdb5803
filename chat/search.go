package chat

import (
	"context"
	"sync"
	"time"
)

// Limits of a search.
const (
	MaxSearchBytes = 256 // of the query text
	MaxSearchWords = 16  // in it
	// MaxRanked is how many messages are ranked: the newest that match.
	MaxRanked       = 10_000
	maxSearches     = 4 // run at once: they share the database pool with everything else
	maxUserSearches = 2 // of one user run or wait

	searchPatience = 10 * time.Second
)

// MessageSearch asks for messages by words.
type MessageSearch struct {
	UserID         ID        // only messages that this user may read are found
	Text           string    // words that must all occur, each as the prefix of a word; "in quotes": an exact phrase
	ConversationID ID        // zero: in all of the user's
	SenderID       ID        // zero: from anybody
	Before         time.Time // only older messages; zero: of any age
	ByRank         bool      // best first, of the newest MaxRanked; otherwise newest first
	After          SearchCursor
	Limit          int // 1 to MaxPageSize
}

// SearchCursor is the key of the last message of a page, and for pages by rank the time
// of the first page. Zero: from the start.
type SearchCursor struct {
	CreatedAt time.Time
	ID        ID
	Rank      float32
	Until     time.Time // by rank: only messages up to the first page's time, so that all pages rank the same messages
}

// IsZero reports whether the cursor means "from the start".
func (c SearchCursor) IsZero() bool { return c.ID.IsZero() }

// SearchHit is a message that was found.
type SearchHit struct {
	Message Event
	Excerpt []ExcerptPart // of the message's content
	Rank    float32       // by rank: comparable within one search
}

// ExcerptPart is a part of an excerpt.
type ExcerptPart struct {
	Text  string
	Match bool // it matches the query
}

// SearchPage is one page of hits.
type SearchPage struct {
	Items []SearchHit
	Next  SearchCursor // zero: no more
}

// SearchStore finds messages.
type SearchStore interface {
	// SearchMessages returns a page of the messages whose current text matches and that
	// the user may read now. A message is found as soon as it is stored. Invalid
	// naming "q" if the text cannot be searched for; NotFound if the user is not a
	// member of the conversation.
	SearchMessages(ctx context.Context, q MessageSearch) (*SearchPage, error)
}

// searches bounds how many searches run at once.
type searches struct {
	running chan struct{} // full: the next one waits

	mu sync.Mutex
	of map[ID]int // mu guards: how many of each user run or wait
}

func newSearches() *searches {
	return &searches{running: make(chan struct{}, maxSearches), of: map[ID]int{}}
}

// begin waits until a search of the user may run; end must be called after it. Quota if
// the user has maxUserSearches already, Unavailable if ctx ends first.
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
		return nil, &Error{Code: Unavailable, Op: "chat.Search", Msg: "too many searches at the moment; try again", Err: context.Cause(ctx)}
	}
}

// SearchMessages finds messages in the user's conversations by their words. It blocks for
// up to searchPatience, while other searches run and for the store. Quota if the user has
// maxUserSearches under way; otherwise errors as of SearchStore.
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
