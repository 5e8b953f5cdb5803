package chat

import (
	"context"
	"time"
)

// Peers are the other nodes that serve the same database. None of its methods
// blocks, and nothing that is sent is certain to arrive: it may be lost, doubled,
// late, and out of order. What must not be lost is found again in the database; see
// Service.HeardOf.
type Peers interface {
	// Event carries a committed event to the nodes where one of the users is
	// connected. Neither e nor users may be changed any more.
	Event(e *Event, membersVersion int64, users []ID)
	// Notify carries a notice to the nodes where one of the users is connected, or with
	// nil to every node. users must not be changed any more.
	Notify(n Notice, users []ID)
	// NotifyNode carries a notice to the node of that name, if it is known.
	NotifyNode(node string, n Notice)
}

// Notice is what nodes tell each other beside events: exactly one of its fields is
// set. Nodes of a later version may set others, which are passed over.
type Notice struct {
	Hint       *HintNotice       `json:"hint,omitempty"`
	Typing     *TypingNotice     `json:"typing,omitempty"`
	Read       *ReceiptNotice    `json:"read,omitempty"`
	Received   *ReceiptNotice    `json:"received,omitempty"`
	Presence   *PresenceNotice   `json:"presence,omitempty"`
	Contacts   *ContactsNotice   `json:"contacts,omitempty"`
	Block      *BlockNotice      `json:"block,omitempty"`
	Superseded *SupersededNotice `json:"taken,omitempty"`
	Device     *DeviceNotice     `json:"device,omitempty"`
}

// HintNotice says how far a log reaches, at least, and which version its members have.
type HintNotice struct {
	ConversationID ID    `json:"c"`
	Seq            int64 `json:"s"`
	MembersVersion int64 `json:"v"`
}

// TypingNotice says that a user types, or has stopped, on a device of the sending node.
type TypingNotice struct {
	ConversationID ID   `json:"c"`
	UserID         ID   `json:"u"`
	Typing         bool `json:"t,omitempty"`
}

// ReceiptNotice says how far a participant has read a log, or has received it.
type ReceiptNotice struct {
	ConversationID ID        `json:"c"`
	UserID         ID        `json:"u"`
	UpTo           int64     `json:"s"`
	At             time.Time `json:"a"`
	MembersVersion int64     `json:"v"`
}

// PresenceNotice says how a user is shown, at a version of it.
type PresenceNotice struct {
	UserID       ID        `json:"u"`
	Status       Status    `json:"p"`
	LastOnlineAt time.Time `json:"l,omitzero"`
	Version      int64     `json:"v"`
	To           []ID      `json:"to,omitempty"` // contacts who are to hear of it; the user's own devices always do
	Part         bool      `json:"r,omitempty"`  // To is not all of them
	Invisible    bool      `json:"i,omitempty"`  // what the user's own devices are shown
}

// ContactsNotice says that users became contacts of others, or ceased to be; see
// Service.onContactsChanged.
type ContactsNotice struct {
	ID ID   `json:"i"` // ContactChange.ID
	A  []ID `json:"a"`
	B  []ID `json:"b,omitempty"` // none: those of A among themselves
}

// DeviceNotice says how a device was that the receiving node has taken over.
type DeviceNotice struct {
	UserID   ID     `json:"u"`
	ClientID string `json:"c"`
	Status   Status `json:"p"`
}

// BlockNotice says that a block between two users has begun or ended.
type BlockNotice struct {
	UserID  ID `json:"u"`
	OtherID ID `json:"o"`
}

// SupersededNotice says that a device has connected at the sending node.
type SupersededNotice struct {
	UserID   ID     `json:"u"`
	ClientID string `json:"c"`
	Epoch    int64  `json:"e"`
	Resumed  bool   `json:"r,omitempty"` // its session has gone on; otherwise another has begun
}

// noPeers is a node alone.
type noPeers struct{}

func (noPeers) Event(*Event, int64, []ID) {}
func (noPeers) Notify(Notice, []ID)       {}
func (noPeers) NotifyNode(string, Notice) {}

// arrivedPatience is how long what comes from another node waits for the store: it is
// looked for again by then.
const arrivedPatience = 2 * time.Second

// ReceiveEvent hands an event that another node has stored to the sessions of this
// one. It may wait for the store, for a few seconds.
func (s *Service) ReceiveEvent(ctx context.Context, e *Event, membersVersion int64) {
	s.arrived(ctx, e, membersVersion, arrivedPatience)
}

// ReceiveNotice acts on a notice of another node, for the sessions of this one. from is that
// node's id. It may wait for the store, for a few seconds.
func (s *Service) ReceiveNotice(ctx context.Context, from string, n Notice) {
	switch {
	case n.Hint != nil:
		s.hintArrived(ctx, n.Hint)
	case n.Typing != nil:
		s.typingArrived(ctx, from, n.Typing)
	case n.Read != nil:
		s.placeArrived(ctx, TopicReads, n.Read)
	case n.Received != nil:
		s.placeArrived(ctx, TopicDelivered, n.Received)
	case n.Block != nil:
		s.hidden.forget(n.Block.UserID, n.Block.OtherID)
		s.typing.hide(n.Block.UserID, n.Block.OtherID)
	case n.Superseded != nil:
		if s.dropSuperseded(*n.Superseded) {
			d := Device{n.Superseded.UserID, n.Superseded.ClientID}
			s.Wills.Superseded(d, n.Superseded.Epoch, n.Superseded.Resumed)
			s.DeviceTaken(d)
		}
	case n.Presence != nil:
		s.Presences.heard(n.Presence)
	case n.Contacts != nil:
		s.Presences.heardContacts(n.Contacts)
	case n.Device != nil:
		s.Presences.heardDevice(n.Device)
	}
}

// hintArrived lets sessions read what a log has, and forgets members that are not any
// more.
func (s *Service) hintArrived(ctx context.Context, n *HintNotice) {
	ctx, cancel := WithDeadline(ctx, arrivedPatience, "chat.hintArrived")
	defer cancel()
	if r := s.rosterAt(ctx, n.ConversationID, n.MembersVersion); r != nil {
		s.publisher.Hint(n.ConversationID, n.Seq, r)
	}
}

// MembersChanged is for what is found in the journal of another node: the members of a
// conversation have another version. They are read if a session here may be concerned,
// and the sessions of those who are members now read the log as far as they lack
// it. It blocks for a round trip.
func (s *Service) MembersChanged(ctx context.Context, conversation ID, seq, membersVersion int64) {
	s.hintArrived(ctx, &HintNotice{conversation, seq, membersVersion})
}

// typingArrived lets a user type as on a device of the other node.
func (s *Service) typingArrived(ctx context.Context, from string, n *TypingNotice) {
	ctx, cancel := WithDeadline(ctx, arrivedPatience, "chat.typingArrived")
	defer cancel()
	_ = s.SetTyping(ctx, Device{UserID: n.UserID, ClientID: peerDevice + from}, n.ConversationID, n.Typing) // who may not is not shown
}

// peerDevice begins what stands for all devices of a user at another node. No client
// id begins so: they have no control characters.
const peerDevice = "\x00node "
