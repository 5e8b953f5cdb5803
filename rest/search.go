package rest

import (
	"context"
	"encoding/binary"
	"math"
	"strings"
	"time"

	"github.com/parleymq/parley/chat"
)

type searchQuery struct {
	Q              string              `query:"q" required:"true" doc:"At most 16 words and 256 bytes. A message must contain all of them. Each matches words that start with it, regardless of case and accents; \"in double quotes\" only complete words in this order." example:"rowing clu"`
	ConversationID ID                  `query:"conversationId" doc:"Only in this conversation."`
	From           ID                  `query:"from" doc:"Only messages from this user."`
	Before         optional[time.Time] `query:"before" doc:"Only older messages."`
	Sort           string              `query:"sort" enum:"newest,rank" default:"newest" doc:"newest: newest first; rank: the newest 10000 matches, best first."`
	Paging
}

// Hit is a message that was found.
type Hit struct {
	Message Message       `json:"message"`
	Excerpt []ExcerptPart `json:"excerpt" nullable:"false" doc:"About 160 characters of the content, in parts; joined, they are the original text."`
	Rank    float32       `json:"rank,omitempty" doc:"With sort=rank: how well it matches, comparable within one search." example:"0.06"`
}

// ExcerptPart is a part of an excerpt.
type ExcerptPart struct {
	Text  string `json:"text" example:"Rowing"`
	Match bool   `json:"match,omitempty" doc:"This part matches the query."`
}

func (s *server) search() {
	register(s, s.secured(op("messages", "GET /api/messages/search", "searchMessages", "Find messages by their words",
		"In your conversations, among the messages that you may read. A message can be found a moment after it was sent, by its current content; "+
			"deleted messages are not found. A user may run two searches at once.",
	)), s.searchMessages, chat.NotFound, chat.Quota)
}

func (s *server) searchMessages(ctx context.Context, in *searchQuery) (*body[Page[Hit]], error) {
	me := principal(ctx).UserID
	q := chat.MessageSearch{
		UserID: me, Text: in.Q, ConversationID: in.ConversationID.chatID(), SenderID: in.From.chatID(), Before: in.Before.Value,
		ByRank: in.Sort == "rank", Limit: in.Limit,
	}
	if y := q.Before.UTC().Year(); in.Before.Set && (y < 1970 || y > 9999) {
		return nil, &chat.Error{Code: chat.Invalid, Field: "before", Msg: "must be in the years 1970 to 9999"}
	}
	kind := foundCursor
	if q.ByRank {
		kind = rankedCursor
	}
	scope := strings.Join([]string{string(in.ConversationID), string(in.From), q.Before.UTC().Format(time.RFC3339Nano), in.Q}, "\x00")
	var err error
	if q.After, err = resume(&in.Paging, me, scope, kind, func(key []byte) (chat.SearchCursor, bool) { return parseSearchKey(key, q.ByRank) }); err != nil {
		return nil, err
	}
	page, err := s.chat.SearchMessages(ctx, q)
	if err != nil {
		return nil, err
	}
	var next string
	if !page.Next.IsZero() {
		next = encodeCursor(kind, me, scope, searchKey(page.Next, q.ByRank))
	}
	messages, err := s.messagesOf(ctx, me, mapped(page.Items, func(h *chat.SearchHit) chat.Event { return h.Message }))
	if err != nil {
		return nil, err
	}
	hits := pageOf(page.Items, func(h *chat.SearchHit) Hit {
		return Hit{Excerpt: mapped(h.Excerpt, func(p *chat.ExcerptPart) ExcerptPart { return ExcerptPart(*p) }), Rank: h.Rank}
	}, next)
	for i := range messages {
		hits.Body.Data[i].Message = messages[i]
	}
	return hits, nil
}

// searchKey is the time and id of the last message, and by rank also its rank and the
// time up to which the search looks.
func searchKey(c chat.SearchCursor, byRank bool) []byte {
	b := conversationKey(chat.ConversationCursor{LastEventAt: c.CreatedAt, ID: c.ID})
	if byRank {
		b = binary.BigEndian.AppendUint32(b, math.Float32bits(c.Rank))
		b = binary.BigEndian.AppendUint64(b, uint64(c.Until.UnixMilli()))
	}
	return b
}

func parseSearchKey(key []byte, byRank bool) (c chat.SearchCursor, ok bool) {
	const tail = 4 + 8
	if byRank {
		if len(key) < tail {
			return c, false
		}
		rest := key[len(key)-tail:]
		key = key[:len(key)-tail]
		c.Rank = math.Float32frombits(binary.BigEndian.Uint32(rest))
		c.Until = time.UnixMilli(int64(binary.BigEndian.Uint64(rest[4:]))).UTC()
		if y := c.Until.Year(); y < 1 || y > 9999 || c.Rank != c.Rank { // NaN
			return c, false
		}
	}
	at, ok := parseConversationKey(key)
	c.CreatedAt, c.ID = at.LastEventAt, at.ID
	return c, ok
}
