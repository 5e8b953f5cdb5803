package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A Statement is one of this package's, for TestStatementsNameTheirShard.
type Statement struct {
	Name, SQL string
	Class     Class
	Names     string // which tables it reads and writes by which things; all: by none, so that every database would be asked
	Why       string // it is hot, and names none or several kinds
}

// A Class says how often a statement runs.
type Class string

// The classes.
const (
	Hot     Class = "Hot"     // for each message, delivery, read or connection, alone or in batches
	Warm    Class = "Warm"    // for a request of a user
	Rare    Class = "Rare"    // by the server itself, or by operators
	Part    Class = "Part"    // no statement of its own
	Utility Class = "Utility" // has no plan
)

// Why hot statements ask every database, or two kinds of things, and what is to be
// done before tables are spread (docs/scaling.md).
const (
	bySessionID = "a session is named by its id; its user is known wherever this is called, and is to be named as well"
	allOfMine   = "all conversations of a user, once for each connection, SUBSCRIBE or change of presence; a copy of participants by user is to answer it"
	bothWays    = "blocks lie with who has blocked; cached, and asked again after a change only. A copy by whom is to answer it"
	byName      = "accounts by name, once for each password or mention, not for tokens; a table of names is to answer it"
	newestOnly  = "with several nodes a message is stored only if its connection is its device's newest; spread, the sessions are to be asked before, or a token of theirs fenced in the log's database"
	byMessageID = "messages by id alone: whoever marks them as read by id does not say in which conversation; reading up to a seq does"
)

// Statements are all there are.
var Statements = []Statement{
	// blocks.go
	{"lockPairSQL", lockPairSQL, Warm, "", ""},
	{"lockUserSQL", lockUserSQL, Warm, "user: users", ""},
	{"userExistsSQL", userExistsSQL, Warm, "user: users", ""},
	{"addBlockSQL", addBlockSQL, Warm, "user: blocks", ""},
	{"countBlocksSQL", countBlocksSQL, Warm, "user: blocks", ""},
	{"deleteBlockSQL", deleteBlockSQL, Warm, "user: blocks", ""},
	{"raiseDirectSQL", raiseDirectSQL, Warm, "all: conversations; user: direct_conversations", ""},
	{"listBlocksSQL", listBlocksSQL, Warm, "all: users; user: blocks", ""},
	{"listHiddenSQL", listHiddenSQL, Hot, "all: blocks; conversation: participants; user: blocks", bothWays},
	{"firstBlockedSQL", firstBlockedSQL, Warm, "all: blocks; user: blocks", ""},
	// connect.go
	{"setSQL", setSQL, Rare, "", ""},
	{"readSettingsSQL", readSettingsSQL, Rare, "", ""},
	{"setSessionSQL", setSessionSQL, Rare, "", ""},
	{"readSessionSQL", readSessionSQL, Rare, "", ""},
	// migrate_versions.go
	{"formerVersionsSQL", formerVersionsSQL, Rare, "", ""},
	{"renameVersionsSQL", renameVersionsSQL, Utility, "", ""},
	{"formerViewSQL", formerViewSQL, Utility, "", ""},
	{"takenNamesSQL", takenNamesSQL, Rare, "", ""},
	{"whereSQL", whereSQL, Rare, "", ""},
	// migrate_compatibility.go
	{"lockCompatibilitySQL", lockCompatibilitySQL, Rare, "", ""},
	{"createCompatibilitySQL", createCompatibilitySQL, Utility, "", ""},
	{"raiseOldestSQL", raiseOldestSQL, Rare, "", ""},
	{"oldestSQL", oldestSQL, Rare, "", ""},
	// contacts.go
	{"countsSQL", countsSQL, Part, "", ""},
	{"contactsSQL", contactsSQL, Part, "", ""},
	// conversations.go
	{"conversationSQL", conversationSQL, Part, "", ""},
	{"unreadSQL", unreadSQL, Part, "", ""},
	{"getConversationSQL", getConversationSQL, Warm, "conversation: conversations, events, participants", ""},
	{"listConversationsSQL", listConversationsSQL, Warm, "all: conversations, events, participants", ""},
	{"listParticipantsSQL", listParticipantsSQL, Warm, "all: users; conversation: participants", ""},
	{"claimPairSQL", claimPairSQL, Warm, "user: direct_conversations", ""},
	{"getPairSQL", getPairSQL, Warm, "user: direct_conversations", ""},
	{"missingUserSQL", missingUserSQL, Warm, "user: users", ""},
	{"insertConversationSQL", insertConversationSQL, Warm, "conversation: conversations", ""},
	{"insertParticipantsSQL", insertParticipantsSQL, Warm, "conversation: participants", ""},
	{"insertEventSQL", insertEventSQL, Hot, "conversation: events", ""},
	// events.go
	// sync_flushed.go
	{"flushSQL", flushSQL, Hot, "", ""},
	// groups.go
	{"lockGroupSQL", lockGroupSQL, Warm, "conversation: conversations, participants", ""},
	{"getRoleSQL", getRoleSQL, Warm, "conversation: participants", ""},
	{"changeConversationSQL", changeConversationSQL, Warm, "conversation: conversations", ""},
	{"newParticipantsSQL", newParticipantsSQL, Warm, "conversation: participants", ""},
	{"countParticipantsSQL", countParticipantsSQL, Warm, "conversation: participants", ""},
	{"addParticipantsSQL", addParticipantsSQL, Warm, "conversation: participants, reads", ""},
	{"endDeparturesSQL", endDeparturesSQL, Warm, "user: departures", ""},
	{"removeParticipantSQL", removeParticipantSQL, Warm, "conversation: participants", ""},
	{"addDepartureSQL", addDepartureSQL, Warm, "user: departures", ""},
	{"successorSQL", successorSQL, Warm, "conversation: participants", ""},
	{"setRoleSQL", setRoleSQL, Warm, "conversation: participants", ""},
	{"pageParticipantsSQL", pageParticipantsSQL, Warm, "all: users; conversation: participants", ""},
	{"getParticipantsSQL", getParticipantsSQL, Warm, "conversation: participants; user: users", ""},
	// indexer.go
	{"scanSQL", scanSQL, Warm, "all: conversations, events, search_segments", ""},
	{"lockIndexSQL", lockIndexSQL, Warm, "", ""},
	{"lastSegmentsSQL", lastSegmentsSQL, Warm, "conversation: conversations, search_segments", ""},
	{"changedSQL", changedSQL, Warm, "conversation: events", ""},
	{"getSegmentsSQL", getSegmentsSQL, Warm, "conversation: search_segments", ""},
	{"segmentOfSQL", segmentOfSQL, Warm, "conversation: search_segments", ""},
	{"getTextsSQL", getTextsSQL, Warm, "conversation: events", ""},
	{"deleteSegmentsSQL", deleteSegmentsSQL, Warm, "conversation: search_segments", ""},
	{"addSegmentSQL", addSegmentSQL, Warm, "conversation: search_segments", ""},
	// signing_keys.go
	{"listSigningKeysSQL", listSigningKeysSQL, Rare, "", ""},
	{"lockSigningKeysSQL", lockSigningKeysSQL, Utility, "", ""},
	{"haveSigningKeySQL", haveSigningKeySQL, Rare, "", ""},
	{"retireSigningKeysSQL", retireSigningKeysSQL, Rare, "", ""},
	{"createSigningKeySQL", createSigningKeySQL, Rare, "", ""},
	{"deleteSigningKeysSQL", deleteSigningKeysSQL, Rare, "", ""},
	// log.go
	{"readLogSQL", readLogSQL, Hot, "conversation: events, participants", ""},
	{"listPositionsSQL", listPositionsSQL, Hot, "all: conversations, participants", allOfMine},
	// clock.go
	{"clockSQL", clockSQL, Rare, "", ""},
	// logins.go
	{"createLoginSQL", createLoginSQL, Warm, "all: refresh_tokens; user: logins, users", ""},
	{"listLoginsSQL", listLoginsSQL, Warm, "user: logins", ""},
	{"revokeLoginSQL", revokeLoginSQL, Warm, "login: refresh_tokens; user: logins", ""},
	{"revokeUserSQL", revokeUserSQL, Warm, "all: refresh_tokens; user: logins", ""},
	{"lockLoginSQL", lockLoginSQL, Warm, "all: logins, refresh_tokens", ""},
	{"getTokenSQL", getTokenSQL, Warm, "all: refresh_tokens", ""},
	{"reusedSQL", reusedSQL, Warm, "all: logins", ""},
	{"useTokenSQL", useTokenSQL, Warm, "all: refresh_tokens", ""},
	{"createTokenSQL", createTokenSQL, Warm, "login: refresh_tokens", ""},
	{"useLoginSQL", useLoginSQL, Warm, "all: logins", ""},
	{"listRevocationsSQL", listRevocationsSQL, Warm, "all: logins, users", ""},
	{"deleteExpiredSQL", deleteExpiredSQL, Rare, "all: logins", ""},
	// messages.go
	{"olderMessagesSQL", olderMessagesSQL, Warm, "conversation: events, participants, reactions", ""},
	{"newerMessagesSQL", newerMessagesSQL, Warm, "conversation: events, participants, reactions", ""},
	{"messagesAroundSQL", messagesAroundSQL, Warm, "conversation: events, participants, reactions", ""},
	{"pageSQL", pageSQL, Part, "", ""},
	{"getMessageSQL", getMessageSQL, Warm, "all: events, participants", ""},
	// migrate.go
	{"schemaVersionSQL", schemaVersionSQL, Rare, "", ""},
	// presence.go
	{"listContactsSQL", listContactsSQL, Hot, "all: blocks, participants; user: blocks", allOfMine},
	{"acquaintedPairSQL", acquaintedPairSQL, Rare, "all: participants", ""},
	{"listBlockedSQL", listBlockedSQL, Hot, "user: blocks", ""},
	{"listContactPresencesSQL", listContactPresencesSQL, Rare, "all: blocks, participants, presences; user: blocks", ""},
	{"getPresencesSQL", getPresencesSQL, Hot, "user: presences", ""},
	{"lockPresencesSQL", lockPresencesSQL, Hot, "user: presences", ""},
	{"putPlacesSQL", putPlacesSQL, Hot, "user: presence_places", ""},
	{"computePresencesSQL", computePresencesSQL, Hot, "user: presence_places, presences", ""},
	// query.go
	// reactions.go
	{"listEditsSQL", listEditsSQL, Warm, "conversation: events, message_originals", ""},
	{"countReactionsSQL", countReactionsSQL, Warm, "conversation: reactions", ""},
	{"listReactionsSQL", listReactionsSQL, Warm, "all: events, participants, reactions", ""},
	// reads.go
	{"moveReadsSQL", moveReadsSQL, Hot, "conversation: conversations, participants, reads", ""},
	{"locateMessagesSQL", locateMessagesSQL, Hot, "all: events, participants", byMessageID},
	{"readBySQL", readBySQL, Warm, "all: blocks; conversation: conversations, participants, reads; user: blocks", ""},
	{"deliveredToSQL", deliveredToSQL, Warm, "all: blocks; conversation: conversations, participants, reads; user: blocks", ""},
	{"moveDeliveredSQL", moveDeliveredSQL, Hot, "conversation: conversations, participants", ""},
	// rosters.go
	{"getRosterSQL", getRosterSQL, Hot, "all: blocks; conversation: conversations, participants", bothWays},
	// verify.go
	{"listSegmentsSQL", listSegmentsSQL, Rare, "all: events, search_segments", ""},
	// search.go
	{"searchedSQL", searchedSQL, Warm, "all: conversations, events, participants, search_segments", ""},
	{"searchLogSQL", searchLogSQL, Warm, "conversation: events", ""},
	{"searchSegmentsSQL", searchSegmentsSQL, Warm, "conversation: events, search_segments", ""},
	{"getFoundSQL", getFoundSQL, Warm, "conversation: events, participants", ""},
	// presence_changes.go
	{"snapshotNowSQL", snapshotNowSQL, Rare, "", ""},
	{"changedPresencesSQL", changedPresencesSQL, Rare, "all: presences", ""},
	{"contactChangesSQL", contactChangesSQL, Rare, "", ""},
	{"putContactChangeSQL", putContactChangeSQL, Warm, "", ""},
	{"deleteContactChangesSQL", deleteContactChangesSQL, Rare, "", ""},
	// presence_nodes.go
	{"deadPlacesSQL", deadPlacesSQL, Rare, "all: presence_places", ""},
	{"deletePlacesSQL", deletePlacesSQL, Rare, "user: presence_places", ""},
	{"releaseOlderSQL", releaseOlderSQL, Rare, "all: presences", ""},
	{"deleteAllPlacesSQL", deleteAllPlacesSQL, Rare, "all: presence_places", ""},
	{"releaseAllPresencesSQL", releaseAllPresencesSQL, Rare, "all: presences", ""},
	{"nodeSeenSQL", nodeSeenSQL, Rare, "", ""},
	{"listDeadNodesSQL", listDeadNodesSQL, Rare, "all: presence_places", ""},
	// retained.go
	{"lockRetainedSQL", lockRetainedSQL, Warm, "", ""},
	{"supersededSQL", supersededSQL, Warm, "user: sessions", ""},
	{"knownRetainedSQL", knownRetainedSQL, Warm, "all: retained_messages", ""},
	{"countRetainedSQL", countRetainedSQL, Warm, "all: retained_messages", ""},
	{"putRetainedSQL", putRetainedSQL, Warm, "user: retained_messages", ""},
	{"deleteRetainedSQL", deleteRetainedSQL, Warm, "all: retained_messages", ""},
	{"listRetainedSQL", listRetainedSQL, Warm, "all: retained_messages", ""},
	{"listRetainedBelowSQL", listRetainedBelowSQL, Warm, "all: retained_messages", ""},
	{"getRetainedSQL", getRetainedSQL, Warm, "all: retained_messages", ""},
	{"countAllRetainedSQL", countAllRetainedSQL, Rare, "all: retained_messages", ""},
	{"deleteExpiredRetainedSQL", deleteExpiredRetainedSQL, Rare, "all: retained_messages", ""},
	// sessions.go
	{"findSessionSQL", findSessionSQL, Hot, "user: sessions", ""},
	{"resumeSessionsSQL", resumeSessionsSQL, Hot, "all: sessions; user: sessions", bySessionID},
	{"forgetSessionSQL", forgetSessionSQL, Hot, "user: sessions", ""},
	{"deleteSessionSQL", deleteSessionSQL, Hot, "all: sessions", bySessionID},
	{"createSessionSQL", createSessionSQL, Hot, "user: sessions", ""},
	{"sessionCursorsSQL", sessionCursorsSQL, Hot, "all: conversations, participants, session_cursors; user: sessions", allOfMine},
	{"trimSessionsSQL", trimSessionsSQL, Hot, "all: sessions; user: sessions", bySessionID},
	{"changeSubscriptionsSQL", changeSubscriptionsSQL, Hot, "all: sessions", bySessionID},
	{"endCursorsSQL", endCursorsSQL, Hot, "session: session_cursors", ""},
	{"beginCursorsSQL", beginCursorsSQL, Hot, "all: conversations, participants; session: session_cursors", allOfMine},
	{"saveCursorsSQL", saveCursorsSQL, Hot, "all: sessions; session: session_cursors", bySessionID},
	{"savePacketIDsSQL", savePacketIDsSQL, Hot, "all: sessions", bySessionID},
	{"partSessionSQL", partSessionSQL, Hot, "all: sessions", bySessionID},
	{"endSessionSQL", endSessionSQL, Hot, "all: sessions", bySessionID},
	{"releaseSessionsSQL", releaseSessionsSQL, Rare, "all: sessions", ""},
	{"deleteExpiredSessionsSQL", deleteExpiredSessionsSQL, Rare, "all: sessions", ""},
	{"readEventsSQL", readEventsSQL, Hot, "conversation: events, participants", ""},
	// sync.go
	{"nowSQL", nowSQL, Warm, "", ""},
	{"syncFewChangedSQL", syncFewChangedSQL, Part, "", ""},
	{"syncKnownChangedSQL", syncKnownChangedSQL, Part, "", ""},
	{"syncProfilesSQL[0]", syncProfilesSQL[0], Warm, "all: conversations, participants, users; user: users", ""},
	{"syncProfilesSQL[1]", syncProfilesSQL[1], Warm, "all: conversations, participants, users; user: users", ""},
	{"syncDeparturesSQL", syncDeparturesSQL, Warm, "all: participants; user: departures", ""},
	{"syncJoinedSQL", syncJoinedSQL, Warm, "all: participants", ""},
	{"syncConversationsSQL", syncConversationsSQL, Warm, "conversation: conversations, events, participants", ""},
	{"syncLogPartsSQL", syncLogPartsSQL, Warm, "all: conversations, events, participants", ""},
	{"syncEventsSQL", syncEventsSQL, Warm, "conversation: events", ""},
	{"syncReadsSQL", syncReadsSQL, Warm, "all: participants", ""},
	{"countChangedSQL", countChangedSQL, Warm, "all: users", ""},
	// sync_origin.go
	{"systemIdentifierSQL", systemIdentifierSQL, Rare, "", ""},
	{"timelineSQL", timelineSQL, Rare, "", ""},
	{"oidsSQL", oidsSQL, Rare, "", ""},
	{"originSQL", originSQL, Rare, "", ""},
	{"originIDSQL", originIDSQL, Rare, "", ""},
	{"lockOriginSQL", lockOriginSQL, Utility, "", ""},
	{"putOriginSQL", putOriginSQL, Rare, "", ""},
	{"forgetNodesSQL", forgetNodesSQL, Rare, "", ""},
	{"skipSessionEpochsSQL", skipSessionEpochsSQL, Rare, "", ""},
	{"renewSessionsSQL", renewSessionsSQL, Rare, "all: sessions; conversation: conversations", ""},
	{"limitCursorsSQL", limitCursorsSQL, Rare, "all: conversations, session_cursors, sessions", ""},
	{"limitDeliveredSQL", limitDeliveredSQL, Rare, "all: conversations, participants, sessions", ""},
	// verify.go
	{"wholeTablesSQL", wholeTablesSQL, Rare, "", ""},
	// witness.go
	{"witnessSQL", witnessSQL, Rare, "conversation: events", ""},
	// users.go
	{"createUserSQL", createUserSQL, Warm, "user: users", ""},
	{"getUserSQL", getUserSQL, Hot, "user: users", ""},
	{"findUsernameSQL", findUsernameSQL, Hot, "all: users", byName},
	{"findEmailSQL", findEmailSQL, Hot, "all: users", byName},
	{"findUsernamesSQL", findUsernamesSQL, Hot, "all: users", byName},
	{"updateUserSQL", updateUserSQL, Warm, "user: users", ""},
	{"searchUsersSQL", searchUsersSQL, Warm, "all: users", ""},
	{"listUsersSQL", listUsersSQL, Warm, "all: users", ""},
	// writer_commands.go
	{"lockConversationsSQL", lockConversationsSQL, Hot, "conversation: conversations", ""},
	{"targetsSQL", targetsSQL, Hot, "conversation: events", ""},
	{"targetMembersSQL", targetMembersSQL, Hot, "conversation: participants", ""},
	{"targetReactionsSQL", targetReactionsSQL, Hot, "conversation: reactions", ""},
	{"targetReactedSQL", targetReactedSQL, Hot, "conversation: reactions", ""},
	{"keepOriginalSQL", keepOriginalSQL, Hot, "conversation: events, message_originals", ""},
	{"editMessageSQL", editMessageSQL, Hot, "conversation: events", ""},
	{"deleteMessageSQL", deleteMessageSQL, Hot, "conversation: events", ""},
	{"deleteEditsSQL", deleteEditsSQL, Hot, "conversation: events", ""},
	{"deleteOriginalSQL", deleteOriginalSQL, Hot, "conversation: message_originals", ""},
	{"deleteReactionsSQL", deleteReactionsSQL, Hot, "conversation: reactions", ""},
	{"addReactionSQL", addReactionSQL, Hot, "conversation: reactions", ""},
	{"removeReactionSQL", removeReactionSQL, Hot, "conversation: reactions", ""},
	// writer_statement.go
	{"lockedSQL", lockedSQL, Part, "", ""},
	{"movedSQL", movedSQL, Part, "", ""},
	{"storedSQL", storedSQL, Part, "", ""},
	{"appendSQL", appendSQL, Hot, "conversation: conversations, events", ""},
	{"movedOneSQL", movedOneSQL, Part, "", ""},
	{"storedOneSQL", storedOneSQL, Part, "", ""},
	{"appendOneSQL", appendOneSQL, Hot, "conversation: conversations, events", ""},
	{"appendOneSharedSQL", appendOneSharedSQL, Hot, "conversation: conversations, events; user: sessions", newestOnly},
	{"freshWriterPlansSQL", freshWriterPlansSQL, Utility, "", ""},
	{"lookupSQL", lookupSQL, Hot, "conversation: events", ""},
	{"findResentSQL", findResentSQL, Hot, "conversation: events", ""},
	{"lockConversationSQL", lockConversationSQL, Hot, "conversation: conversations", ""},
	// outbox.go
	{"outboxLogSQL", outboxLogSQL, Hot, "", ""},
	{"outboxTakeOverSQL", outboxTakeOverSQL, Hot, "", ""},
	{"lockBatchSQL", lockBatchSQL, Hot, "conversation: conversations", ""},
	{"appendSharedSQL", appendSharedSQL, Hot, "conversation: conversations, events; user: sessions", newestOnly},
	// node_lease.go
	{"joinNodesSQL", joinNodesSQL, Rare, "", ""},
	{"epochSQL", epochSQL, Rare, "", ""},
	{"heartbeatSQL", heartbeatSQL, Rare, "", ""},
	{"evictNodeSQL", evictNodeSQL, Rare, "", ""},
	{"releasedNodeSQL", releasedNodeSQL, Rare, "", ""},
	{"leaveNodesSQL", leaveNodesSQL, Rare, "", ""},
	{"outboxSQL", outboxSQL, Part, "", ""},
	{"readOutboxSQL", readOutboxSQL, Hot, "", ""},
	{"readWholeOutboxSQL", readWholeOutboxSQL, Rare, "", ""},
	{"pruneOutboxSQL", pruneOutboxSQL, Rare, "", ""},
	{"lockExclusivelySQL", lockExclusivelySQL, Rare, "", ""},
	{"lockSharedSQL", lockSharedSQL, Rare, "", ""},
	{"lockNameSQL", lockNameSQL, Rare, "", ""},
	{"endFormerSQL", endFormerSQL, Rare, "", ""},
}

// elsewhere are statements that stand in no constant named …SQL, by file.
var elsewhere = map[string]string{
	"verify.go": "the oracle, which reads everything",
}

// StatementsInSource returns the names of the constants and variables of this package
// that hold statements: those that are called …SQL. A statement anywhere else is an
// error.
func StatementsInSource(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			ast.Inspect(decl, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.ValueSpec:
					if strings.HasSuffix(n.Names[0].Name, "SQL") {
						names = append(names, n.Names[0].Name)
						return false
					}
				case *ast.FuncDecl:
					return !strings.HasSuffix(n.Name.Name, "SQL") // it makes one of those
				case *ast.BasicLit:
					if text, err := strconv.Unquote(n.Value); err == nil && n.Kind == token.STRING && looksLikeSQL.MatchString(text) && elsewhere[e.Name()] == "" {
						t.Errorf("%s holds a statement that is in no constant called …SQL: %.60q", e.Name(), text)
					}
				}
				return true
			})
		}
	}
	return names
}

var looksLikeSQL = regexp.MustCompile(`^\s*(SELECT|INSERT INTO|UPDATE \w+ |DELETE FROM|WITH \w+|LOCK TABLE)\b`)
