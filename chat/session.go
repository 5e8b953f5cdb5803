package chat

import (
	"context"
	"time"
)

// SubscriptionState is a stored subscription.
type SubscriptionState struct {
	Filter     string `json:"filter"` // as the client wrote it
	QoS        byte   `json:"qos"`
	Identifier uint32 `json:"identifier,omitempty"` // MQTT 5 subscription identifier; 0: none

	// Subscription options of filters on device topics (MQTT 5.0, 3.8.3.1).
	NoLocal           bool `json:"noLocal,omitempty"`
	RetainAsPublished bool `json:"retainAsPublished,omitempty"`
}

// InflightState is a publication that was sent and not acknowledged. An event's content is
// in the log. A publication to a device topic has neither conversation nor seq: only its
// packet identifier is stored.
type InflightState struct {
	PacketID       uint16 `json:"packetId"`
	ConversationID ID     `json:"conversationId"`
	Seq            int64  `json:"seq"`
	QoS            byte   `json:"qos"`
	Received       bool   `json:"received,omitempty"` // QoS 2: PUBREC came, PUBCOMP did not
	Settled        bool   `json:"settled,omitempty"`  // acknowledged, but an older one is not
}

// CursorState is how far a session has come in a conversation's log.
type CursorState struct {
	ConversationID ID
	Acked          int64 // every event up to this one is acknowledged
	LastSeq        int64 // end of the log when the session was taken over
}

// MaxHeldPacketIDs is how many ends of connections that were not saved are remembered for
// the identifiers that a client may hold; at that number it may hold any.
const MaxHeldPacketIDs = 8

// UnackedPublish is a client's publish to a conversation that the client may not know to
// be stored, so that it may send it again. It came without a clientMsgId.
type UnackedPublish struct {
	PacketID uint16 `json:"packetId"`
	Key      ID     `json:"key"`    // the ResendKey under which it was stored, or would have been
	Digest   uint32 `json:"digest"` // of what it said: the same digest in the same packet identifier is the same publish
}

// MaxUnackedPublishes is how many a session remembers.
const MaxUnackedPublishes = 2048

// SessionState is a device's stored session state (MQTT 5.0, 4.1), with cursors into the
// logs in place of queued messages.
type SessionState struct {
	ID            ID
	Elsewhere     bool   // it is connected at From, at Epoch, and was not taken over; see SessionTake.Await. Other fields are not set
	Epoch         int64  // of this connection: later writes of older ones are ignored
	Present       bool   // it existed before this connection: CONNACK's session present
	From          string // the other node that had its last connection, and may still have it; "": none
	Subscriptions []SubscriptionState
	Cursors       []CursorState   // of all the user's conversations
	Inflight      []InflightState // in the order they were sent; empty after a crash, when the cursors cover them
	NextPacketID  uint16
	HeldPacketIDs []uint16  // QoS 2: the client may hold identifiers near these, or any if there are MaxHeldPacketIDs, without having been sent PUBREL: the ends of those connections were not saved
	ResendSince   time.Time // a publish that the client resends on this connection was stored after this, if at all; zero: the session is new

	UnackedPublishes []UnackedPublish // of the connections before this one; empty after a crash

	Forgotten []string // client ids of the user's sessions that this one has replaced: see MaxUserSessions
}

// SessionTake describes the connection that takes over a session.
type SessionTake struct {
	UserID     ID
	ClientID   string
	CleanStart bool          // discard the stored state
	Expiry     time.Duration // how long the session is kept after the connection ends; 0: not at all
	Node       string
	Now        time.Time
	// Await leaves a session that is connected at another node there: the caller notifies
	// that node, which first stores how far the session has come.
	Await bool
	// Note stores the connection even without an expiry, so that other nodes can find it
	// and take it over.
	Note bool
}

// SessionPart is a session's state at the end of its connection.
type SessionPart struct {
	ID            ID
	Epoch         int64
	Expiry        time.Duration // 0: the session ends now
	Now           time.Time
	Cursors       []CursorState // those that have moved since they were last saved
	Inflight      []InflightState
	NextPacketID  uint16
	HeldPacketIDs []uint16 // those of SessionState that are not released yet

	UnackedPublishes []UnackedPublish // at most MaxUnackedPublishes
}

// CursorUpdate moves one cursor.
type CursorUpdate struct {
	SessionID      ID
	Epoch          int64
	ConversationID ID
	Acked          int64
}

// PacketIDUpdate stores the packet identifier that a session uses next.
type PacketIDUpdate struct {
	SessionID ID
	Epoch     int64
	Next      uint16
	Released  bool // the client holds none of SessionState.HeldPacketIDs any more
}

// SubscriptionChange is the effect of SUBSCRIBE or UNSUBSCRIBE on a session. End and
// EndAll are applied before All and Begin.
type SubscriptionChange struct {
	SessionID     ID
	Epoch         int64
	UserID        ID
	Subscriptions []SubscriptionState // replace all stored ones
	Keep          []CursorState       // the session's cursors, some of which may not be stored yet
	All           bool                // add a cursor at the end of the log for every conversation of the user that has none
	Begin         []ID                // add a cursor for these, likewise
	End           []ID                // remove the cursors of these
	EndAll        bool                // remove all cursors
}

// EventRef names an event.
type EventRef struct {
	ConversationID ID
	Seq            int64
}

// SessionStore stores sessions. All methods block for one or a few round trips and return
// chat errors. A write with an epoch that is not current changes nothing and is Conflict,
// unless stated otherwise.
type SessionStore interface {
	// TakeSession creates the session of a device for a new connection, or takes it over
	// from the last one. With no expiry and nothing to resume, the state has no ID and
	// nothing is stored, unless Note is set. Of two connections of a device, the one with
	// the higher epoch is the newer, at whichever nodes they are.
	TakeSession(ctx context.Context, t SessionTake) (*SessionState, error)
	// ChangeSubscriptions stores a session's subscriptions and changes its cursors, and
	// returns the ends of the user's logs as of that transaction.
	ChangeSubscriptions(ctx context.Context, c SubscriptionChange) ([]Position, error)
	// SaveCursors moves cursors forward, never back, and stores packet identifiers. It
	// skips sessions that are gone or have been taken over, and may be repeated.
	SaveCursors(ctx context.Context, updates []CursorUpdate, packetIDs []PacketIDUpdate) error
	// PartSession stores the state of a session whose connection has ended, or
	// removes it when its expiry is 0.
	PartSession(ctx context.Context, p SessionPart) error
	// ReleaseSessions starts the expiry, at now, of the node's sessions that are marked
	// as connected: the node is back from a crash. "" means every node. It returns how
	// many there were.
	ReleaseSessions(ctx context.Context, node string, now time.Time) (int64, error)
	// DeleteExpiredSessions removes up to limit expired sessions with their cursors, and
	// returns how many.
	DeleteExpiredSessions(ctx context.Context, now time.Time, limit int) (int64, error)
	// ReadEvents returns those of the named events that the user may see, in any order.
	ReadEvents(ctx context.Context, user ID, refs []EventRef) ([]Event, error)
}

// MaxUserSessions is how many sessions a user may have. A further one replaces the one
// that has been disconnected for longest; if all are connected, it is refused.
const MaxUserSessions = 100
