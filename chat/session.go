package chat

import (
	"context"
	"time"
)

// SubscriptionState is a subscription as it is kept.
type SubscriptionState struct {
	Filter     string `json:"filter"` // as the client wrote it
	QoS        byte   `json:"qos"`
	Identifier uint32 `json:"identifier,omitempty"` // MQTT 5 subscription identifier; 0: none

	// Options of MQTT 5, of filters on device topics (3.8.3.1).
	NoLocal           bool `json:"noLocal,omitempty"`
	RetainAsPublished bool `json:"retainAsPublished,omitempty"`
}

// InflightState is a publication that was sent and not acknowledged. Its content
// is in the log; one to a device topic has no conversation and no place, and holds
// its packet identifier's place only.
type InflightState struct {
	PacketID       uint16 `json:"packetId"`
	ConversationID ID     `json:"conversationId"`
	Seq            int64  `json:"seq"`
	QoS            byte   `json:"qos"`
	Received       bool   `json:"received,omitempty"` // QoS 2: PUBREC came, PUBCOMP did not
	Settled        bool   `json:"settled,omitempty"`  // acknowledged, but one sent before it was not
}

// CursorState is a session's place in a conversation's log.
type CursorState struct {
	ConversationID ID
	Acked          int64 // acknowledged without a gap up to here
	LastSeq        int64 // how far the log reached when the session was taken
}

// SessionState is what is kept of a device's session: what MQTT calls the session
// state (MQTT 5.0, 4.1), with cursors into the logs in place of queued messages.
type SessionState struct {
	ID            ID
	Elsewhere     bool   // it is connected at From, at Epoch, and was not taken; see SessionTake.Await. The rest is not set
	Epoch         int64  // of this connection: what an older one writes later is ignored
	Present       bool   // it was there before this connection: CONNACK's session present
	From          string // the other node that had its last connection, and may have it still; "": none
	Subscriptions []SubscriptionState
	Cursors       []CursorState   // of all the user's conversations
	Inflight      []InflightState // in the order they were sent; empty after a crash, which does not lose them: they are beyond the cursors
	NextPacketID  uint16
	HeldPacketIDs []uint16  // QoS 2: around these the client may hold identifiers whose PUBREL it was not sent, because ends of connections were not saved
	ResendSince   time.Time // a packet that is sent again on this connection was stored after this, if it was; zero: the session is new
}

// SessionTake says who takes a session.
type SessionTake struct {
	UserID     ID
	ClientID   string
	CleanStart bool          // forget what is there
	Expiry     time.Duration // how long it is kept after the connection ends; 0: not at all
	Node       string
	Now        time.Time
	// Await says that a session which is connected at another node is not to be taken yet:
	// that node is to be told, and stores first how far it has come.
	Await bool
	// Note has the connection noted whatever its expiry is, so that it can be found and
	// taken over at other nodes.
	Note bool
}

// SessionPart is the state of a session at the end of its connection.
type SessionPart struct {
	ID            ID
	Epoch         int64
	Expiry        time.Duration // 0: the session ends now
	Now           time.Time
	Cursors       []CursorState // those that moved since they were last saved
	Inflight      []InflightState
	NextPacketID  uint16
	HeldPacketIDs []uint16 // those of SessionState that were not released
}

// CursorUpdate moves one cursor.
type CursorUpdate struct {
	SessionID      ID
	Epoch          int64
	ConversationID ID
	Acked          int64
}

// PacketIDUpdate notes which packet identifier a session uses next.
type PacketIDUpdate struct {
	SessionID ID
	Epoch     int64
	Next      uint16
	Released  bool // what SessionState.HeldPacketIDs names is held no more
}

// SubscriptionChange is what SUBSCRIBE or UNSUBSCRIBE does to a session.
type SubscriptionChange struct {
	SessionID     ID
	Epoch         int64
	UserID        ID
	Subscriptions []SubscriptionState // all of them, from now on
	Keep          []CursorState       // the session's places so far, which may not all be stored
	All           bool                // give every conversation of the user a cursor at the end of its log, where it has none
	Begin         []ID                // give these a cursor, likewise
	End           []ID                // take these away first
	EndAll        bool                // take all away first
}

// EventRef names an event.
type EventRef struct {
	ConversationID ID
	Seq            int64
}

// SessionStore keeps sessions. All methods block for a round trip or a few and
// return chat errors; a write of an epoch that is not current changes nothing and
// is Conflict, except where it says otherwise.
type SessionStore interface {
	// TakeSession makes the session of a device, or takes it over from its last
	// connection, for a new connection. With no expiry and nothing to resume, the
	// state has no ID and nothing is stored, unless it is to be noted. Of two
	// connections of a device the one with the higher epoch is the newer, whichever
	// nodes they are at.
	TakeSession(ctx context.Context, t SessionTake) (*SessionState, error)
	// ChangeSubscriptions stores a session's subscriptions and gives cursors to the
	// conversations they begin to cover, and returns the ends of the user's logs
	// as they were in that same transaction.
	ChangeSubscriptions(ctx context.Context, c SubscriptionChange) ([]Position, error)
	// SaveCursors moves cursors forward, never back, and notes packet identifiers.
	// Those of sessions that are gone or have been taken are passed over. It may be
	// repeated.
	SaveCursors(ctx context.Context, updates []CursorUpdate, packetIDs []PacketIDUpdate) error
	// PartSession stores the state of a session whose connection has ended, or
	// removes it when its expiry is 0.
	PartSession(ctx context.Context, p SessionPart) error
	// ReleaseSessions lets the expiry of the node's sessions that are marked as
	// connected begin at now: the node has come back from a crash. "" means every
	// node. It returns how many.
	ReleaseSessions(ctx context.Context, node string, now time.Time) (int64, error)
	// DeleteExpiredSessions removes up to limit sessions that have expired, with
	// their cursors, and returns how many.
	DeleteExpiredSessions(ctx context.Context, now time.Time, limit int) (int64, error)
	// ReadEvents returns those of the named events that the user may see, in any order.
	ReadEvents(ctx context.Context, user ID, refs []EventRef) ([]Event, error)
}

// MaxUserSessions is how many sessions a user may have: beyond that, the one that
// has been away for longest is forgotten, and if none is, no other is made.
const MaxUserSessions = 100
