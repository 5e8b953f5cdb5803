package chat

import (
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
	if len(payload) <= MaxSignalPayload && utf8.Valid(payload) && decodeJSON(payload, &in) == nil {
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
	LastOnlineAt time.Time // when the user was last online, if they are offline; zero: never
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

// PresenceEngine is told what concerns the presence of users. Its methods must not
// block, and must not change or keep slices.
type PresenceEngine interface {
	// ContactsChanged is called after the commit of whatever may have made members of a
	// and members of b contacts of each other, or ended that; a and b may be the same.
	// Contacts share a conversation of at most MaxContactMembers members, and have not
	// blocked each other. Whether they are contacts now has to be looked up.
	ContactsChanged(a, b []ID)
	// Receive acts on a notice of another node that concerns presence.
	Receive(n Notice)
}

// noPresence is used where nobody's presence is shown.
type noPresence struct{}

func (noPresence) ContactsChanged(_, _ []ID) {}
func (noPresence) Receive(Notice)            {}
