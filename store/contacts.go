package store

import (
	"strconv"

	"github.com/parleymq/parley/chat"
)

// countsSQL holds for a conversation of the participant me of at most chat.MaxContactMembers
// members. Larger groups make nobody a contact, since every change of one member would be
// sent to all of them.
var countsSQL = `(SELECT count(*) FROM (SELECT FROM participants n WHERE n.conversation_id = me.conversation_id LIMIT ` + strconv.Itoa(chat.MaxContactMembers+1) + `) AS members) <= ` + strconv.Itoa(chat.MaxContactMembers)

// contactsSQL returns the contacts of the user in wanted.user_id: those with whom
// they share a conversation that counts, unless one of the two has blocked the other.
// It is used in a lateral join. OFFSET 0 keeps the planner from joining: without
// statistics it would read all participants there are, for each user.
var contactsSQL = `
SELECT DISTINCT them.user_id
FROM participants me CROSS JOIN LATERAL (SELECT user_id FROM participants WHERE conversation_id = me.conversation_id OFFSET 0) them
WHERE me.user_id = wanted.user_id AND them.user_id <> me.user_id AND ` + countsSQL + `
  AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = me.user_id AND b.blocked_id = them.user_id OFFSET 0)
  AND NOT EXISTS (SELECT FROM blocks b WHERE b.user_id = them.user_id AND b.blocked_id = me.user_id OFFSET 0)`
