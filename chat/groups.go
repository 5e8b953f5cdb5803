package chat

import (
	"context"
	"slices"
	"time"
)

// History says how much of a group's log a user who joins may see.
type History string

// The settings of history.
const (
	HistoryJoined History = "joined" // events from the joining on
	HistoryAll    History = "all"    // everything
)

// ConversationUpdate is a change of a group by its owner or an admin. Fields that are nil
// stay as they are.
type ConversationUpdate struct {
	Actor          ID
	ConversationID ID
	Title          *string
	History        *History
}

// NewParticipants adds users to a group.
type NewParticipants struct {
	Actor          ID
	ConversationID ID
	Users          []ID // 1 to MaxAddedMembers, without duplicates
	Role           Role // GroupAdmin or GroupMember
}

// ParticipantChange removes one participant of a group or changes the role.
type ParticipantChange struct {
	Actor          ID
	ConversationID ID
	UserID         ID
	Role           Role // SetParticipantRole: the new role
}

// GroupChange is the stored outcome of a change of a group.
type GroupChange struct {
	Events  []Event // in the order of the log; none: nothing has changed
	Version int64   // of the roster, as of these events
	Roster  *Roster // at that version; nil if the members have not changed
	Joined  []ID
	Left    []ID
}

// GroupStore changes groups. Each change is one transaction that locks the conversation,
// so it is ordered against commits of messages. NotFound if the actor is not a member,
// Forbidden if the actor may not make the change, Invalid for a direct conversation. After
// Unavailable the change may have been stored.
type GroupStore interface {
	// UpdateConversation changes a group's title and history.
	UpdateConversation(ctx context.Context, u ConversationUpdate, now time.Time) (*GroupChange, error)
	// AddParticipants adds those of n.Users who are not members yet. NotFound naming
	// the first user who does not exist or is disabled; Forbidden if there is a block
	// between one of them and the actor; Conflict if the group would have more than
	// MaxGroupMembers.
	AddParticipants(ctx context.Context, n NewParticipants, now time.Time) (*GroupChange, error)
	// RemoveParticipant removes a member, if the user is one. A group whose owner leaves
	// gets another owner, if anybody is left.
	RemoveParticipant(ctx context.Context, c ParticipantChange, now time.Time) (*GroupChange, error)
	// SetParticipantRole gives a member another role.
	SetParticipantRole(ctx context.Context, c ParticipantChange, now time.Time) (*GroupChange, error)
	// GetParticipants returns those of the users who are participants, ascending.
	GetParticipants(ctx context.Context, conversation ID, users []ID) ([]Participant, error)
}

// UpdateConversation changes a group's title or history, as its owner or an admin, and
// returns the conversation. No event is stored for what stays the same. Errors are those
// of GroupStore.
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

// AddParticipants adds users to a group, as its owner or an admin, and returns all named
// participants; those who were members already keep their roles. Only the owner may add
// admins. It may be repeated. Errors are those of GroupStore.
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

// RemoveParticipant removes a participant: oneself, as the owner anybody, or as an admin
// a plain member. From the commit on the user receives no later event of the conversation
// and no signal. It may be repeated.
func (s *Service) RemoveParticipant(ctx context.Context, p ParticipantChange) error {
	c, err := s.store.RemoveParticipant(ctx, p, Timestamp(s.clock.Now()))
	if p.Actor == p.UserID && CodeOf(err) == NotFound {
		return nil // has left already, or was never a member; the answer does not say which
	}
	return s.groupChanged(ctx, p.ConversationID, c, err)
}

// SetParticipantRole gives a member of a group another role, as its owner, and returns
// the participant. Giving the role of owner makes the former owner an admin.
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

// NoParticipant is the error about a user who is not in the conversation, for one who is.
func NoParticipant(user ID) error {
	return &Error{Code: NotFound, Field: "userId", Msg: "there is no participant " + user.String()}
}

// groupChanged distributes a committed change. If the outcome is unknown, the
// conversation is checked until it is known.
func (s *Service) groupChanged(ctx context.Context, conversation ID, c *GroupChange, err error) error {
	if err != nil {
		if CodeOf(err) == Unavailable {
			s.unconfirmed.add(conversation)
		}
		return err
	}
	if c.Roster != nil { // first: events committed from now on do not go to users who have left
		s.Rosters.put(c.Roster)
	}
	for i := range c.Events {
		if c.Roster != nil {
			s.publisher.Publish(&c.Events[i], c.Roster)
			s.peers.Event(&c.Events[i], c.Version, slices.Concat(c.Roster.Members, c.Left)) // nodes of users who have left must learn it, too
		} else {
			s.Committed(ctx, &c.Events[i], c.Version)
		}
	}
	s.membersChanged(c)
	return nil
}

// membersChanged announces who became contacts of whom, or ceased to be. Members of a
// group of more than MaxContactMembers are not contacts through it; when it shrinks to
// that size, they are again.
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
