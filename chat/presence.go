package chat

import (
	"context"
	"encoding/json"
	"time"
	"unicode/utf8"
)

// Status is what a device says of its user, and what others are shown.
type Status string

// The statuses.
const (
	Online    Status = "online"
	Away      Status = "away"      // connected, or was a while ago, and not looking
	Invisible Status = "invisible" // of the user: shown as offline to everybody else
	Offline   Status = "offline"
)

// MaxPresences is how many users' presence may be asked for at once.
const MaxPresences = 100

// ParseStatus reads the payload of user/{me}/presence: {"status":"away"}. Invalid
// names what is wrong.
func ParseStatus(payload []byte) (Status, error) {
	var in struct {
		Status Status `json:"status"`
	}
	if len(payload) <= 1024 && utf8.Valid(payload) && json.Unmarshal(payload, &in) == nil {
		switch in.Status {
		case Online, Away, Invisible, Offline:
			return in.Status, nil
		}
	}
	return "", invalid("status", `must be "online", "away", "invisible" or "offline", in a JSON object of at most 1024 bytes: {"status":"away"}`)
}

// Presence is how a user is shown: to their contacts, or to themselves, who alone
// may see Invisible.
type Presence struct {
	UserID       ID
	Status       Status
	LastOnlineAt time.Time // when the user was here last, if they are not; zero: never

	version int64 // PresenceState.Version
}

// AppendJSON appends what is published on user/{id}/presence.
func (p Presence) AppendJSON(b []byte) []byte {
	b = append(b, `{"userId":"`...)
	b = append(p.UserID.append(b), `","status":"`...)
	b = append(append(b, p.Status...), `","lastOnlineAt":`...)
	if p.LastOnlineAt.IsZero() {
		return append(b, `null}`...)
	}
	b = p.LastOnlineAt.UTC().AppendFormat(append(b, '"'), TimeFormat)
	return append(b, `"}`...)
}

// PresenceState is what is stored of a user's presence.
type PresenceState struct {
	UserID       ID
	Online       bool // shown as here, at the node that stores it
	Invisible    bool
	LastOnlineAt time.Time // zero: never

	// Where there are several nodes; a node alone leaves both empty.
	Status  Status // how they are shown, by all nodes together; empty: Offline
	Version int64  // rises with every change of Status and Invisible
}

// PresenceStore keeps what outlives the memory of the nodes: who wants to be
// invisible, and when who was here last; and it knows who is whose contact. All
// methods block for a round trip, return chat errors, and may be repeated.
type PresenceStore interface {
	// ListContacts returns the contacts of each of the users; those of them that are
	// among the given ones, if that is not nil.
	ListContacts(ctx context.Context, users, among []ID) (map[ID][]ID, error)
	// Acquainted reports whether two users share a conversation that makes contacts,
	// whether or not one has blocked the other.
	Acquainted(ctx context.Context, a, b ID) (bool, error)
	// ListBlocked returns the pairs among the users of whom the first has blocked the
	// second.
	ListBlocked(ctx context.Context, users []ID) ([][2]ID, error)
	// ListContactPresences returns contacts of the user by id, at most limit, from
	// behind after; of names those it is about (nil: all). Online and Invisible are
	// not told.
	ListContactPresences(ctx context.Context, user ID, of []ID, after ID, limit int) ([]PresenceState, error)
	// GetPresences returns what is stored of the users; those of whom nothing is are
	// left out.
	GetPresences(ctx context.Context, users []ID) (map[ID]PresenceState, error)
	// PutPresences stores what has become of the node's users. LastOnlineAt never
	// goes back.
	PutPresences(ctx context.Context, node string, list []PresenceState) error
	// SeeNode notes that the node lives.
	SeeNode(ctx context.Context, node string, now time.Time) error
	// ReleasePresences is for a node that comes back: who is stored as here at it was
	// so for as long as it was last seen alive. "" means every node. It returns how
	// many.
	ReleasePresences(ctx context.Context, node string) (int64, error)

	PlaceStore
}

// End says how a device's connection has ended.
type End struct {
	// Gone: the device has said goodbye (DISCONNECT with reason code 0), or what it
	// logged in with was revoked. It is not here any more, at once; nothing else counts.
	Gone bool
	Will Status        // that the client left as its will on its own presence; empty: none, which is Offline
	Wait time.Duration // the will delay interval, if it left one
	Kept time.Duration // how long the session is kept from now
}

// DeviceCame notes that a device has connected: it is online, or, if it was away for
// less than the grace, or takes over from itself, as it was before. The Stay names
// the connection. It does not block.
func (s *Service) DeviceCame(d Device) Stay { return s.Presences.came(d) }

// DeviceWent notes that a connection has ended, and reports whether it was the
// newest of its device: nothing follows otherwise. It does not block.
func (s *Service) DeviceWent(d Device, stay Stay, e End) bool { return s.Presences.went(d, stay, e) }

// SetStatus notes what a device says of its user. Invisible holds for the user, and
// until a device says that it is online or away. It does not block.
func (s *Service) SetStatus(d Device, stay Stay, status Status) { s.Presences.set(d, stay, status) }

// ListPresences returns how those of the users are whom the user may see: contacts
// and themselves. The others are left out, whether or not they exist.
func (s *Service) ListPresences(ctx context.Context, user ID, of []ID) ([]Presence, error) {
	return s.Presences.list(ctx, user, of)
}

// TellPresences tells a session of the user, which has just subscribed or come back,
// how the contacts are, and the user themselves: those named in of, or all if it is
// nil. It reads contacts by pages. tell must not block, and returns false if there is
// no room; wait then blocks until there is, or returns why that will not be.
//
// What tell was told is not older than anything that is signaled after it.
func (s *Service) TellPresences(ctx context.Context, user ID, of []ID, tell func(Presence) bool, wait func(context.Context) error) error {
	return s.Presences.tellSession(ctx, user, of, tell, wait)
}
