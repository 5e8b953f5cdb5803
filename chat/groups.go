package chat

import (
	"context"
	"slices"
	"time"
)

// History says what somebody who joins a group may see of its log.
type History string

// The settings of history.
const (
	HistoryJoined History = "joined" // what comes from then on
	HistoryAll    History = "all"    // everything
)

// ConversationUpdate is what an owner or admin changes about a group. nil fields
// stay as they are.
type ConversationUpdate struct {
	Actor          ID
	ConversationID ID
	Title          *string
	History        *History
}

// NewParticipants is who is added to a group, by whom.
type NewParticipants struct {
	Actor          ID
	ConversationID ID
	Users          []ID // 1 to MaxAddedMembers, without duplicates
	Role           Role // GroupAdmin or GroupMember
}

// ParticipantChange is about one participant of a group.
type ParticipantChange struct {
	Actor          ID
	ConversationID ID
	UserID         ID
	Role           Role // SetParticipantRole: the new one
}

// GroupChange is what a change of a group has stored.
type GroupChange struct {
	Events  []Event // in the order of the log; none: it was so already
	Version int64   // of the roster, as of these events
	Roster  *Roster // of that version, if the members have changed; else nil
	Joined  []ID
	Left    []ID
}

// GroupStore changes groups. Each method is one transaction, which locks the
// conversation: changes and commits of messages follow each other, and events take
// their place in the log between those. Those who are no members get NotFound;
// direct conversations are Invalid, those who may not Forbidden. After Unavailable a
// change may have been stored.
type GroupStore interface {
	// UpdateConversation changes what a group is called, and what those who join may see.
	UpdateConversation(ctx context.Context, u ConversationUpdate, now time.Time) (*GroupChange, error)
	// AddParticipants adds those of n.Users who are no members. NotFound naming the
	// first user who does not exist or is disabled; Forbidden if a block is between
	// them and the actor; Conflict if the group would have more than MaxGroupMembers.
	AddParticipants(ctx context.Context, n NewParticipants, now time.Time) (*GroupChange, error)
	// RemoveParticipant ends a membership; it changes nothing if there is none. A
	// group whose owner leaves gets another one, if anybody is left.
	RemoveParticipant(ctx context.Context, c ParticipantChange, now time.Time) (*GroupChange, error)
	// SetParticipantRole gives a member another role.
	SetParticipantRole(ctx context.Context, c ParticipantChange, now time.Time) (*GroupChange, error)
	// GetParticipants returns those of the users who are participants, ascending.
	GetParticipants(ctx context.Context, conversation ID, users []ID) ([]Participant, error)
	// AwaitRoster is GetRoster after whatever is changing the conversation has ended:
	// it shows also what was committed without an answer.
	AwaitRoster(ctx context.Context, conversation ID) (*Roster, error)
}

// UpdateConversation changes a group's title or what those who join may see of its
// log, as an owner or admin, and returns the conversation. Nothing is stored where
// it was so already.
func (s *Service) UpdateConversation(ctx context.Context, u ConversationUpdate) (*Conversation, error) {
	if u.Title != nil {
		if err := ValidateTitle(*u.Title); err != nil {
			return nil, err
		}
	}
	if u.History != nil && *u.History != HistoryJoined && *u.History != HistoryAll {
		return nil, invalid("history", `must be "joined" or "all"`)
	}
	c, err := s.store.UpdateConversation(ctx, u, Timestamp(s.clock.Now()))
	if err := s.groupChanged(ctx, u.ConversationID, c, err); err != nil {
		return nil, err
	}
	return s.store.GetConversation(ctx, u.Actor, u.ConversationID)
}

// AddParticipants adds users to a group, as an owner or admin, and returns the places
// of all that are named; those who are members already keep theirs. It may be
// repeated. Only the owner adds admins.
func (s *Service) AddParticipants(ctx context.Context, n NewParticipants) ([]Participant, error) {
	if n.Role == "" {
		n.Role = GroupMember
	}
	switch {
	case len(n.Users) == 0 || len(n.Users) > MaxAddedMembers:
		return nil, invalid("userIds", "has "+itoa(len(n.Users))+" users, must have 1 to "+itoa(MaxAddedMembers))
	case n.Role != GroupAdmin && n.Role != GroupMember:
		return nil, invalid("role", `must be "admin" or "member"`)
	}
	n.Users = slices.Clone(n.Users)
	slices.SortFunc(n.Users, ID.Compare)
	n.Users = slices.Compact(n.Users)
	c, err := s.store.AddParticipants(ctx, n, Timestamp(s.clock.Now()))
	if err := s.groupChanged(ctx, n.ConversationID, c, err); err != nil {
		return nil, err
	}
	return s.store.GetParticipants(ctx, n.ConversationID, n.Users)
}

// RemoveParticipant ends a membership: one's own, or as the owner anybody's, or as an
// admin a member's. It may be repeated. From the commit on the user gets nothing of
// the conversation: no event that was stored after it, and no signal.
func (s *Service) RemoveParticipant(ctx context.Context, p ParticipantChange) error {
	c, err := s.store.RemoveParticipant(ctx, p, Timestamp(s.clock.Now()))
	if p.Actor == p.UserID && CodeOf(err) == NotFound {
		return nil // left already, or never there, which is not told
	}
	return s.groupChanged(ctx, p.ConversationID, c, err)
}

// SetParticipantRole gives a member of a group another role, as its owner, and
// returns their place. The role of owner is handed over: the old one becomes admin.
func (s *Service) SetParticipantRole(ctx context.Context, p ParticipantChange) (*Participant, error) {
	if p.Role != Owner && p.Role != GroupAdmin && p.Role != GroupMember {
		return nil, invalid("role", `must be "owner", "admin" or "member"`)
	}
	c, err := s.store.SetParticipantRole(ctx, p, Timestamp(s.clock.Now()))
	if err := s.groupChanged(ctx, p.ConversationID, c, err); err != nil {
		return nil, err
	}
	found, err := s.store.GetParticipants(ctx, p.ConversationID, []ID{p.UserID})
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0: // has left meanwhile
		return nil, NoParticipant(p.UserID)
	}
	return &found[0], nil
}

// NoParticipant is the answer about a user who is not in a conversation of the
// asking member's.
func NoParticipant(user ID) error {
	return &Error{Code: NotFound, Field: "userId", Msg: "there is no participant " + user.String()}
}

// groupChanged makes known what the store has committed. If it is not known whether
// it has, the conversation is looked at until that is clear.
func (s *Service) groupChanged(ctx context.Context, conversation ID, c *GroupChange, err error) error {
	if err != nil {
		if CodeOf(err) == Unavailable {
			s.doubt(conversation)
		}
		return err
	}
	if c.Roster != nil { // first: what is committed from now on finds who has left gone
		s.Rosters.put(c.Roster)
	}
	for i := range c.Events {
		if c.Roster != nil {
			s.publisher.Publish(&c.Events[i], c.Roster)
			s.peers.Event(&c.Events[i], c.Version, slices.Concat(c.Roster.Members, c.Left)) // the nodes of who has left forget them
		} else {
			s.Committed(ctx, &c.Events[i], c.Version)
		}
	}
	s.membersChanged(c)
	return nil
}

// membersChanged tells who became contacts of whom, or ceased to be. A group that has
// outgrown MaxContactMembers makes nobody a contact; one that shrinks to it does.
func (s *Service) membersChanged(c *GroupChange) {
	if c.Roster == nil {
		return
	}
	members := c.Roster.Members
	before := len(members) - len(c.Joined) + len(c.Left)
	everybody := slices.Concat(members, c.Left)
	switch was, is := before <= MaxContactMembers, len(members) <= MaxContactMembers; {
	case was && is:
		s.presence.ContactsChanged(slices.Concat(c.Joined, c.Left), everybody)
	case was != is:
		s.presence.ContactsChanged(everybody, everybody)
	}
}
