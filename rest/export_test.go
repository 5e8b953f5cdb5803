package rest

import (
	"net/netip"

	"github.com/parleymq/parley/chat"
)

var ProblemOf = problemOf

const MaxAddresses = maxAddresses

// Limiter is the table of addresses.
type Limiter struct{ l *limiter }

func NewLimiter(r Rate, c chat.Clock) Limiter { return Limiter{newLimiter(r, c)} }
func (l Limiter) Allow(a netip.Addr) error    { return l.l.allow(a) }
func (l Limiter) Len() int                    { return len(l.l.table) }
func EncodeCursor(kind byte, user chat.ID, scope string, key []byte) string {
	return encodeCursor(cursorKind(kind), user, scope, key)
}

func DecodeCursor(text string, user chat.ID, scope string, kinds ...byte) (byte, []byte, error) {
	var ks []cursorKind
	for _, k := range kinds {
		ks = append(ks, cursorKind(k))
	}
	k, key, err := decodeCursor(text, user, scope, ks...)
	return byte(k), key, err
}

var (
	ConversationKey      = conversationKey
	ParseConversationKey = parseConversationKey
	SeqKey               = seqKey
	ParseSeqKey          = parseSeqKey
)
