package chat

import (
	"context"
	"encoding/json"
	"time"
)

// Peers are the other nodes that serve the same database. None of its methods blocks.
// What is sent may be lost, doubled, late or out of order; whatever must not be lost is
// in the database as well, and read from there.
type Peers interface {
	// Event sends a committed event to the nodes where one of the users is connected.
	// Neither e nor users may be changed afterwards.
	Event(e *Event, membersVersion int64, users []ID)
	// Notify sends a notice to the nodes where one of the users is connected, or with nil
	// to every node. users must not be changed afterwards.
	Notify(n Notice, users []ID)
	// NotifyNode sends a notice to the node of that name, if it is known.
	NotifyNode(node string, n Notice)
}

// Notice is what nodes send each other beside events: exactly one of its fields is
// set. Fields of a later version are ignored.
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
	Refusal    *RefusalNotice    `json:"refusal,omitempty"`
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
	To           []ID      `json:"to,omitempty"` // contacts to notify; the user's own devices are notified always
	Part         bool      `json:"r,omitempty"`  // To is not all of them; the receiving node reads who they are
	Invisible    bool      `json:"i,omitempty"`  // what the user's own devices are shown
}

// ContactsNotice says that users became contacts of others, or ceased to be; see
// PresenceEngine.ContactsChanged.
type ContactsNotice struct {
	ID ID   `json:"i"` // of the change
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

// SupersededNotice says that a device has connected at the sending node, which
// supersedes an older connection that it may have elsewhere.
type SupersededNotice struct {
	UserID   ID     `json:"u"`
	ClientID string `json:"c"`
	Epoch    int64  `json:"e"`
	Resumed  bool   `json:"r,omitempty"` // its session has gone on; otherwise another has begun
}

// RefusalNotice carries what is sent to the user's devices on user/{id}/errors.
type RefusalNotice struct {
	UserID  ID              `json:"u"`
	Problem json.RawMessage `json:"p"`
}

// noPeers is a node alone.
type noPeers struct{}

func (noPeers) Event(*Event, int64, []ID) {}
func (noPeers) Notify(Notice, []ID)       {}
func (noPeers) NotifyNode(string, Notice) {}

// receiveTimeout is how long a frame of another node waits for the store. What it said is
// read from the outbox by then.
const receiveTimeout = 2 * time.Second

// ReceiveEvent hands an event that another node has stored to the sessions of this one.
// It may wait for the store, for 2 s.
func (s *Service) ReceiveEvent(ctx context.Context, e *Event, membersVersion int64) {
	s.arrived(ctx, e, membersVersion, receiveTimeout)
}

// ReceiveNotice acts on a notice of another node, for the sessions of this one. from is
// that node's id; "": the notice was read from the outbox. It may wait for the store, for
// 2 s.
func (s *Service) ReceiveNotice(ctx context.Context, from string, n Notice) {
	switch {
	case n.Hint != nil:
		s.receiveHint(ctx, n.Hint)
	case n.Typing != nil:
		s.receiveTyping(ctx, from, n.Typing)
	case n.Read != nil:
		s.receiptArrived(ctx, TopicReads, n.Read)
	case n.Received != nil:
		s.receiptArrived(ctx, TopicDelivered, n.Received)
	case n.Block != nil:
		s.hidden.forget(n.Block.UserID, n.Block.OtherID)
		s.typing.hide(n.Block.UserID, n.Block.OtherID)
	case n.Refusal != nil:
		s.signalRefusal(n.Refusal)
	case n.Superseded != nil:
		if s.dropSuperseded(*n.Superseded) {
			d := Device{n.Superseded.UserID, n.Superseded.ClientID}
			s.Wills.Superseded(d, n.Superseded.Epoch, n.Superseded.Resumed)
			s.presence.Receive(n)
		}
	default:
		s.presence.Receive(n)
	}
}

// PublishRefused sends problem, a JSON object that says why a publish was refused, on
// user/{id}/errors to all devices of the user that subscribe to it, at every node. It does
// not block; like every signal it may be lost.
func (s *Service) PublishRefused(user ID, problem []byte) {
	n := &RefusalNotice{user, problem}
	s.signalRefusal(n)
	s.peers.Notify(Notice{Refusal: n}, []ID{user})
}

func (s *Service) signalRefusal(n *RefusalNotice) {
	s.publisher.Signal(Topic{Kind: TopicErrors, ID: n.UserID}, n.Problem, []ID{n.UserID}, nil)
}

// receiveHint has sessions read a log up to where it reaches, with the members of at least
// that version.
func (s *Service) receiveHint(ctx context.Context, n *HintNotice) {
	ctx, cancel := WithDeadline(ctx, receiveTimeout, "chat.receiveHint")
	defer cancel()
	if r := s.rosterAt(ctx, n.ConversationID, n.MembersVersion); r != nil {
		s.publisher.Hint(n.ConversationID, n.Seq, r)
	}
}

// MembersChanged acts on an outbox row that says that a conversation's members have
// changed: they are read if a session here may be concerned, and the sessions of the
// present members read the log. It may wait for the store, for 2 s.
func (s *Service) MembersChanged(ctx context.Context, conversation ID, seq, membersVersion int64) {
	s.receiveHint(ctx, &HintNotice{conversation, seq, membersVersion})
}

// receiveTyping shows a user as typing, on a device that stands for the other node.
func (s *Service) receiveTyping(ctx context.Context, from string, n *TypingNotice) {
	ctx, cancel := WithDeadline(ctx, receiveTimeout, "chat.receiveTyping")
	defer cancel()
	_ = s.SetTyping(ctx, Device{UserID: n.UserID, ClientID: peerDevice + from}, n.ConversationID, n.Typing) // who may not type is not shown
}

// peerDevice begins the client id that stands for all devices of a user at another node.
// No client id of a device does: they have no control characters.
const peerDevice = "\x00node "
