package rest

import (
	"github.com/parleymq/parley/chat"
)

var ProblemOf = problemOf

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
	SearchKey            = searchKey
	ParseSearchKey       = parseSearchKey
)
