package client

import (
	"context"
	"iter"
	"net/url"
	"time"
)

// Search says what to look for in the messages of one's conversations.
type Search struct {
	Q            string    // words that must all occur, perhaps longer ones that begin with them: 1 to 256 bytes, at most 16 words
	Conversation ID        // this one only; empty: all
	From         ID        // sent by this user only
	Before       time.Time // sent before
	ByRank       bool      // the best first, instead of the newest
}

// SearchResult is a message that was found.
type SearchResult struct {
	Message Message   `json:"message"`
	Excerpt []Segment `json:"excerpt"` // of its content, about the first matches
	Rank    float64   `json:"rank"`    // ByRank: how well it fits, to compare with others of the same search
}

// Segment is a part of an excerpt.
type Segment struct {
	Text  string `json:"text"`
	Match bool   `json:"match"` // one of the words
}

// Search finds messages. What has just been sent may take a moment to be found.
func (a *API) Search(ctx context.Context, s Search) iter.Seq2[*SearchResult, error] {
	query := url.Values{"q": {s.Q}}
	if s.Conversation != "" {
		query.Set("conversationId", string(s.Conversation))
	}
	if s.From != "" {
		query.Set("from", string(s.From))
	}
	if !s.Before.IsZero() {
		query.Set("before", s.Before.UTC().Format(time.RFC3339Nano))
	}
	if s.ByRank {
		query.Set("sort", "rank")
	}
	return list[SearchResult](ctx, a, call{op: "search", path: "/api/messages/search", query: query})
}
