package chat

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/backoff"
)

// Service is what both interfaces (hooks, rest) call: it knows who may do what, checks what
// they send, and appends it to the log. It is safe for concurrent use.
type Service struct {
	Reader  // queries that need no rule but the store's own
	Rosters *Rosters
	Wills   *Wills // wills of devices, on conversations and device topics

	store     Store
	log       Log
	publisher Publisher // the sessions of this node
	peers     Peers

	dropSuperseded func(SupersededNotice) bool

	clock       Clock
	typing      *Typing
	hidden      *hidden
	presence    PresenceEngine
	searches    *searches
	reads       *reads
	unconfirmed unconfirmed
	resends     atomic.Uint32
	names       names
}

// NewService returns the rules over a store. Use is to be called before anything else.
// Without presence (nil) nobody's is shown.
func NewService(store Store, clock Clock, presence PresenceEngine) *Service {
	if presence == nil {
		presence = noPresence{}
	}
	s := &Service{
		Reader: store, peers: noPeers{}, presence: presence, Rosters: NewRosters(store, 4_000_000), store: store, clock: clock,
		searches: newSearches(), reads: newReads(store, clock),
	}
	s.hidden = newHidden(store, clock)
	s.typing = newTyping(clock, s.Rosters.cached, s.hidden.current, func(conversation ID, payload []byte, users []ID, except func(ID) bool) {
		s.publisher.Signal(Topic{Kind: TopicTyping, ID: conversation}, payload, users, except)
	})
	s.Rosters.changed = s.typing.rosterChanged
	s.Wills = newWills()
	return s
}

// Use sets the ports that themselves need the Service. It must be called before anything
// else.
func (s *Service) Use(log Log, publisher Publisher) { s.log, s.publisher = log, publisher }

// UsePeers sets the other nodes; without it there are none. It must be called before
// anything but Use. dropSuperseded ends the connection of a device, if there is one here
// that is older than the one of the notice, and reports false if the one here is the newer.
// It does not block.
func (s *Service) UsePeers(p Peers, dropSuperseded func(SupersededNotice) bool) {
	s.peers, s.dropSuperseded = p, dropSuperseded
	s.typing.forward = func(n TypingNotice, to []ID) { p.Notify(Notice{Typing: &n}, to) }
}

// Source says which packet of which session a command arrived in, so that a packet that is
// sent again is recognised. The zero Source means none (REST, QoS 0).
type Source struct {
	Key    ID        // of the packet: NewResendKey, or for one that is known to be sent again the key of its first sending
	Resent bool      // DUP: it may be in the log under an earlier key
	Since  time.Time // SessionState.ResendSince; zero: the session is new, so nothing can have been sent in it before
	Device string    // of the session
	Epoch  int64     // of the connection, see Append.Epoch
}

// NewResendKey is ResendKey for a packet that has arrived now.
func (s *Service) NewResendKey(session uint64, packetID uint16) ID {
	return ResendKey(session, packetID, s.clock.Now(), uint8(s.resends.Add(1)))
}

// Submit checks a command, which is valid (Command.Validate), and queues it for the
// conversation's log. An error means that it is refused now, and a.Done is not called.
// Otherwise a.Done is called with the outcome, once.
//
// Submit may wait for the store (for a roster that is not cached, or the message that is
// replied to) and for room in the log's queue, within their own limits and until ctx ends:
// Unavailable.
func (s *Service) Submit(ctx context.Context, sender, conversation ID, c *Command, src Source, a *Append) error {
	r, err := s.Rosters.Require(ctx, conversation, sender)
	if err != nil {
		return err
	}
	if r.closedFor(c.Type) {
		return Blocked()
	}
	e := &a.Event
	*e = Event{ConversationID: conversation, Type: c.Type, ID: NewID(), SenderID: sender, ClientMsgID: c.ClientMsgID}
	if err := commandTypes[c.Type].event(ctx, s, r, c, e); err != nil {
		return err
	}
	key := c.ClientMsgID
	if key.IsZero() && !src.Key.IsZero() {
		key = src.Key
		a.Resent, a.Since = src.Resent && !src.Since.IsZero(), src.Since
		a.Device, a.Epoch = src.Device, src.Epoch
	}
	if key.IsZero() {
		key = e.ID
	}
	e.ClientMsgID = key
	a.MembersVersion = r.Version
	if err := s.log.Append(ctx, a); err != nil {
		return err
	}
	if c.Type == EventMessage {
		s.typing.sent(conversation, sender)
	}
	return nil
}

// checkReply returns Invalid if there is no such message to reply to in the conversation.
func (s *Service) checkReply(ctx context.Context, user, conversation, message ID) error {
	if message.IsZero() {
		return nil
	}
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.checkReply")
	defer cancel()
	m, err := s.store.GetMessage(ctx, user, message)
	if CodeOf(err) == NotFound || err == nil && m.ConversationID != conversation {
		return invalid("replyTo", "there is no message "+message.String()+" in this conversation")
	}
	return err
}

// Send is Submit for callers that wait: it returns the stored event, and whether it had
// been stored before under the same clientMsgId. Unavailable if ctx ends first: the message
// may be stored then, and may be sent again with the same clientMsgId.
func (s *Service) Send(ctx context.Context, sender, conversation ID, c *Command) (*Event, bool, error) {
	if err := c.Validate(); err != nil {
		return nil, false, err
	}
	w := make(chan error, 1)
	a := &Append{Done: waiterFunc(func(err error) { w <- err })}
	if err := s.Submit(ctx, sender, conversation, c, Source{}, a); err != nil {
		return nil, false, err
	}
	select {
	case err := <-w:
		if err != nil {
			return nil, false, err
		}
		return &a.Event, a.Repeat, nil
	case <-ctx.Done():
		return nil, false, &Error{Code: Unavailable, Op: "chat.Send", Msg: "not confirmed in time; send it again with the same clientMsgId", Err: context.Cause(ctx)}
	}
}

// Recheck checks again whether a's sender is a member and may write, after the log has
// refused to store it at its MembersVersion. It sets the new version, or returns Forbidden.
//
// The cache is good enough if it is newer than what a was checked against. If it has the
// same version, a is accepted once: it may have shared a batch with older events, and was
// not tried. So a change of members in a busy large group does not cost a query for each
// event in progress.
func (s *Service) Recheck(ctx context.Context, a *Append) error {
	r := s.Rosters.cached(a.Event.ConversationID)
	if r == nil || r.Version < a.MembersVersion || r.Version == a.MembersVersion && a.recheckedAt == r.Version {
		var err error
		r, err = s.Rosters.Reload(ctx, a.Event.ConversationID)
		if CodeOf(err) == NotFound {
			return NotParticipant(a.Event.ConversationID)
		} else if err != nil {
			return err
		}
	}
	switch {
	case !r.Has(a.Event.SenderID):
		return NotParticipant(a.Event.ConversationID)
	case r.closedFor(a.Event.Type):
		return Blocked()
	}
	a.MembersVersion, a.recheckedAt = r.Version, r.Version
	return nil
}

// Committed carries an event that the log has stored at membersVersion to those who were
// members at that version and still are. The log calls it once for each event, in seq
// order for each conversation. It blocks while the members are not known and the store is
// unavailable, for at most committedPatience: otherwise the event would not be delivered
// before the next one of its conversation.
func (s *Service) Committed(ctx context.Context, e *Event, membersVersion int64) {
	if r := s.arrived(ctx, e, membersVersion, committedPatience); r != nil {
		s.peers.Event(e, membersVersion, r.Members)
	}
}

// arrived hands out here what was stored at membersVersion, here or at another node,
// and returns the members; nil if there are none, or they are not known in time.
func (s *Service) arrived(ctx context.Context, e *Event, membersVersion int64, patience time.Duration) *Roster {
	if r := s.Rosters.cached(e.ConversationID); r != nil && r.Version >= membersVersion { // all but a few
		s.publish(e, r, membersVersion)
		return r
	}
	ctx, cancel := WithDeadline(ctx, patience, "chat.Committed")
	defer cancel()
	for wait := backoff.New(10*time.Millisecond, time.Second); ; {
		r, err := s.Rosters.Get(ctx, e.ConversationID)
		if err == nil && r.Version < membersVersion {
			r, err = s.Rosters.Reload(ctx, e.ConversationID)
		}
		if err == nil {
			s.publish(e, r, membersVersion)
			return r
		}
		if CodeOf(err) == NotFound {
			return nil
		}
		if !wait.Sleep(ctx) {
			s.unconfirmed.add(e.ConversationID)
			return nil
		}
	}
}

const committedPatience = 30 * time.Second

// publish hands an event to those of the roster who were members at its version, which may
// be an older one: live delivery does not ask the log what users may see who have left and
// rejoined since. If it is not known who was a member then, sessions are told to read the
// log instead.
func (s *Service) publish(e *Event, r *Roster, membersVersion int64) {
	switch {
	case r.Version == membersVersion:
		s.publisher.Publish(e, r)
	case r.before != nil && r.before.Version == membersVersion:
		s.publisher.Publish(e, r.remaining())
	default:
		s.publisher.Hint(e.ConversationID, e.Seq, r)
	}
}

// CreateConversation makes a direct conversation or a group. Conflict with
// Existing set if the two users share a direct conversation already; Forbidden for
// users who are blocked, whoever has blocked whom.
func (s *Service) CreateConversation(ctx context.Context, n NewConversation) (*Conversation, error) {
	if err := validateNew(&n); err != nil {
		return nil, err
	}
	n.ID = NewID()
	c, e, err := s.store.CreateConversation(ctx, n, Timestamp(s.clock.Now()))
	if err != nil {
		if CodeOf(err) == Unavailable { // it may be there all the same
			s.unconfirmed.add(n.ID)
		}
		return nil, err
	}
	r := &Roster{ConversationID: e.ConversationID, Version: 1, Kind: n.Kind, Members: append(slices.Clone(n.Users), n.Creator)}
	slices.SortFunc(r.Members, ID.Compare)
	s.Rosters.put(r)
	s.publisher.Publish(e, r) // whatever has become of ctx: it is stored, and asks for nothing
	s.peers.Event(e, r.Version, r.Members)
	if len(r.Members) <= MaxContactMembers {
		s.presence.ContactsChanged(r.Members, r.Members)
	}
	return c, nil
}

func validateNew(n *NewConversation) error {
	switch n.Kind {
	case Direct:
		if len(n.Users) != 1 || n.Users[0] == n.Creator {
			return invalid("otherUserId", "must be the id of another user")
		}
		if n.Title != "" {
			return invalid("title", "is for groups only")
		}
	case Group:
		if len(n.Users)+1 > MaxGroupMembers {
			return invalid("userIds", "has "+itoa(len(n.Users))+" users, limit "+itoa(MaxGroupMembers-1)+" beside yourself")
		}
		if err := ValidateTitle(n.Title); err != nil {
			return err
		}
	default:
		return invalid("kind", `must be "direct" or "group"`)
	}
	users := slices.Clone(n.Users)
	slices.SortFunc(users, ID.Compare)
	users = slices.Compact(users)
	n.Users = slices.DeleteFunc(users, func(id ID) bool { return id == n.Creator })
	return nil
}

// Now is the service's clock.
func (s *Service) Now() time.Time { return s.clock.Now() }
