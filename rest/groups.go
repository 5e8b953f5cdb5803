package rest

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// ConversationUpdate is the body of PATCH /api/conversations/{id}; fields left out
// stay as they are.
type ConversationUpdate struct {
	_       struct{}      `additionalProperties:"false"`
	Title   *string       `json:"title,omitempty" doc:"At most 200 characters." example:"Rowing"`
	History *chat.History `json:"history,omitempty" enum:"joined,all" doc:"What users who join from now on may see: events after they joined, or all." example:"joined"`
}

// NewParticipants is the body of POST /api/conversations/{id}/participants.
type NewParticipants struct {
	_       struct{}  `additionalProperties:"false"`
	UserIDs []ID      `json:"userIds" minItems:"1" maxItems:"100" doc:"Users who are already members are ignored."`
	Role    chat.Role `json:"role,omitempty" enum:"admin,member" doc:"member by default; only the owner may add admins." example:"member"`
}

// ParticipantUpdate is the body of PATCH /api/conversations/{id}/participants/{userId}.
type ParticipantUpdate struct {
	_    struct{}  `additionalProperties:"false"`
	Role chat.Role `json:"role" enum:"owner,admin,member" doc:"owner: transfers the group; the previous owner becomes an admin." example:"admin"`
}

type byParticipant struct {
	ID     ID `path:"id"`
	UserID ID `path:"userId"`
}

func (s *server) groups() {
	const tag = "conversations"
	register(s, s.secured(op(tag, "PATCH /api/conversations/{id}", "updateConversation", "Change a group",
		"For its owner and admins. Each change is an event in the log.")), s.updateConversation, chat.Forbidden, chat.NotFound)
	register(s, s.secured(op(tag, "GET /api/conversations/{id}/participants", "listParticipants", "List the participants of a conversation, by user id", "")),
		s.listParticipants, chat.NotFound)
	register(s, s.secured(big(op(tag, "POST /api/conversations/{id}/participants", "addParticipants", "Add users to a group",
		"For its owner and admins. The answer has a participant for each user named, including those who were members already. "+
			"A group has at most 10,000 members.",
	))), s.addParticipants, chat.Forbidden, chat.NotFound, chat.Conflict)
	register(s, s.secured(op(tag, "PATCH /api/conversations/{id}/participants/{userId}", "updateParticipant", "Change the role of a group's member",
		"For its owner.")), s.updateParticipant, chat.Forbidden, chat.NotFound)
	register(s, s.secured(op(tag, "DELETE /api/conversations/{id}/participants/{userId}", "removeParticipant", "Leave a group, or remove somebody from it",
		"The owner may remove anybody, admins may remove members. Once that is committed, the user receives nothing more from the group. "+
			"When the owner leaves, the longest-standing admin becomes the owner, or else the longest-standing member. May be repeated.",
	)), s.removeParticipant, chat.Forbidden, chat.NotFound)
}

func (s *server) updateConversation(ctx context.Context, in *byIDWith[ConversationUpdate]) (*body[Conversation], error) {
	return reply(conversationOf)(s.chat.UpdateConversation(ctx, chat.ConversationUpdate{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), Title: in.Body.Title, History: in.Body.History,
	}))
}

var participantList = list[chat.Participant, chat.ID, Participant]{
	kind: participantsCursor, parse: parseIDKey, key: func(p *chat.Participant) []byte { return p.UserID[:] }, show: participantOf,
}

func (s *server) listParticipants(ctx context.Context, in *struct {
	ID ID `path:"id"`
	Paging
},
) (*body[Page[Participant]], error) {
	return participantList.page(ctx, &in.Paging, in.ID.chatID().String(), func(ctx context.Context, me, after chat.ID, limit int) ([]chat.Participant, error) {
		return s.chat.ListParticipants(ctx, me, in.ID.chatID(), after, limit)
	})
}

func (s *server) addParticipants(ctx context.Context, in *byIDWith[NewParticipants]) (*body[Page[Participant]], error) {
	found, err := s.chat.AddParticipants(ctx, chat.NewParticipants{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), Users: chatIDs(in.Body.UserIDs), Role: in.Body.Role,
	})
	if err != nil {
		return nil, err
	}
	return pageOf(found, participantOf, ""), nil
}

func (s *server) updateParticipant(ctx context.Context, in *struct {
	ID     ID `path:"id"`
	UserID ID `path:"userId"`
	Body   ParticipantUpdate
},
) (*body[Participant], error) {
	return reply(participantOf)(s.chat.SetParticipantRole(ctx, chat.ParticipantChange{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), UserID: in.UserID.chatID(), Role: in.Body.Role,
	}))
}

func (s *server) removeParticipant(ctx context.Context, in *byParticipant) (*struct{}, error) {
	return nil, s.chat.RemoveParticipant(ctx, chat.ParticipantChange{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), UserID: in.UserID.chatID(),
	})
}
