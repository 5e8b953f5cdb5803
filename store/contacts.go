package store

import (
	"strconv"

	"github.com/parleymq/parley/chat"
)

// acquaintedSQL is contactsSQL regardless of blocks.
var acquaintedSQL = `
SELECT DISTINCT them.user_id
FROM participants me JOIN participants them ON them.conversation_id = me.conversation_id AND them.user_id <> me.user_id
WHERE me.user_id = wanted.user_id
  AND (SELECT count(*) FROM (SELECT FROM participants n WHERE n.conversation_id = me.conversation_id LIMIT ` + strconv.Itoa(chat.MaxContactMembers+1) + `) AS members) <= ` + strconv.Itoa(chat.MaxContactMembers)

// contactsSQL returns the contacts of the user in wanted.user_id: those with whom
// they share a conversation of at most chat.MaxContactMembers members, unless one of
// the two has blocked the other. Larger groups make nobody a contact, since every change of
// one member would be sent to all of them. It is used in a lateral join.
var contactsSQL = acquaintedSQL + `
  AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = me.user_id AND b.blocked_id = them.user_id)
  AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = them.user_id AND b.blocked_id = me.user_id)`
