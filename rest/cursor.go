package rest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

// A cursor is base64url of
//
//	byte 0      version: 1
//	byte 1      which list
//	bytes 2–9   the beginning of SHA-256 over list, user, scope and key
//	bytes 10–   the key: where the next page begins
//
// The sum is not a signature: a cursor grants no rights. It makes a cursor that was
// truncated, mistyped, or made for another user or list an error, instead of a page
// from somewhere else.
type cursorKind byte

const (
	usersCursor         cursorKind = 'u' // key: user name; scope: q
	sessionsCursor      cursorKind = 's' // key: login id
	conversationsCursor cursorKind = 'c' // key: time of the last event, id
	olderCursor         cursorKind = 'm' // key: seq; scope: conversation
	newerCursor         cursorKind = 'n' // key: seq; scope: conversation
	editsCursor         cursorKind = 'e' // key: seq; scope: message
	reactionsCursor     cursorKind = 'r' // key: user, emoji; scope: message
	participantsCursor  cursorKind = 'p' // key: user id; scope: conversation
	blocksCursor        cursorKind = 'b' // key: user id
	syncCursor          cursorKind = 'y' // key: the store's
	foundCursor         cursorKind = 'f' // key: time, id; scope: the query
	rankedCursor        cursorKind = 'k' // key: time, id, rank, time of the search; scope: the query

	cursorVersion = 1
	cursorHead    = 10
	maxCursorKey  = 80
)

func encodeCursor(kind cursorKind, user chat.ID, scope string, key []byte) string {
	b := append(make([]byte, 0, cursorHead+len(key)), cursorVersion, byte(kind))
	b = append(b, cursorSum(kind, user, scope, key)...)
	return base64.RawURLEncoding.EncodeToString(append(b, key...))
}

// decodeCursor returns a cursor's kind, which is one of those given, and its key. Any
// text that encodeCursor did not make for the same user and scope is Invalid.
func decodeCursor(text string, user chat.ID, scope string, kinds ...cursorKind) (cursorKind, []byte, error) {
	bad := badCursor()
	longest := maxCursorKey
	if slices.Contains(kinds, syncCursor) {
		longest = chat.MaxSyncCursorBytes
	}
	if len(text) > base64.RawURLEncoding.EncodedLen(cursorHead+longest) {
		return 0, nil, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < cursorHead || b[0] != cursorVersion || base64.RawURLEncoding.EncodeToString(b) != text {
		return 0, nil, bad // DecodeString ignores line ends: one cursor, one text
	}
	kind, key := cursorKind(b[1]), b[cursorHead:]
	if string(b[2:cursorHead]) != string(cursorSum(kind, user, scope, key)) {
		return 0, nil, bad
	}
	if !slices.Contains(kinds, kind) {
		return 0, nil, bad
	}
	return kind, key, nil
}

func badCursor() error {
	return &chat.Error{Code: chat.Invalid, Field: "cursor", Msg: "is not one that this list gave you"}
}

func cursorSum(kind cursorKind, user chat.ID, scope string, key []byte) []byte {
	b := append([]byte("parley cursor\x00"), byte(kind))
	b = append(b, user[:]...)
	b = append(binary.BigEndian.AppendUint32(b, uint32(len(scope))), scope...)
	sum := sha256.Sum256(append(b, key...))
	return sum[:cursorHead-2]
}

func seqKey(seq int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(seq)) }

// parseSeqKey reports false for what is not a seq: they start at 1.
func parseSeqKey(key []byte) (int64, bool) {
	if len(key) != 8 {
		return 0, false
	}
	seq := int64(binary.BigEndian.Uint64(key))
	return seq, seq > 0
}

func parseIDKey(key []byte) (id chat.ID, ok bool) {
	copy(id[:], key)
	return id, len(key) == len(id)
}

// parseTextKey reports false for what the database would not take as text.
func parseTextKey(key []byte) (string, bool) {
	return string(key), utf8.Valid(key) && !slices.Contains(key, 0)
}

func parseReactionKey(key []byte) (r chat.Reaction, ok bool) {
	if len(key) < len(r.UserID) {
		return r, false
	}
	r.Emoji, ok = parseTextKey(key[copy(r.UserID[:], key):])
	return r, ok
}

func conversationKey(c chat.ConversationCursor) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(c.LastEventAt.UnixMicro())), c.ID[:]...)
}

func parseConversationKey(key []byte) (c chat.ConversationCursor, ok bool) {
	if len(key) != 8+len(c.ID) {
		return c, false
	}
	c.LastEventAt = time.UnixMicro(int64(binary.BigEndian.Uint64(key))).UTC()
	copy(c.ID[:], key[8:])
	y := c.LastEventAt.Year()
	return c, !c.ID.IsZero() && y > 0 && y < 10_000 // what a timestamp can be
}
