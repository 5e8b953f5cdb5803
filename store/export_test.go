package store

import "github.com/jackc/pgx/v5/pgxpool"

// Pool lets tests run statements of their own.
func (s *Store) Pool() *pgxpool.Pool { return s.pool }

// What the tests read without a database, or look at with EXPLAIN.
var (
	Translate     = translate
	RegisterTypes = registerTypes
)

// Statements whose plans are tested.
const (
	OlderMessagesSQL  = olderMessagesSQL
	NewerMessagesSQL  = newerMessagesSQL
	MessagesAroundSQL = messagesAroundSQL
	GetMessageSQL     = getMessageSQL
	ReadLogSQL        = readLogSQL
	ListConversations = listConversationsSQL
	MissingUserSQL    = missingUserSQL
	SearchUsersSQL    = searchUsersSQL
)
