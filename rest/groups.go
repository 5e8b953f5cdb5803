package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// ConversationUpdate is the body of PATCH /api/conversations/{id}; fields left out
// stay as they are.
type ConversationUpdate struct {
	_       struct{}      `additionalProperties:"false"`
	Title   *string       `json:"title,omitempty" doc:"At most 200 characters." example:"Rowing"`
	History *chat.History `json:"history,omitempty" enum:"joined,all" doc:"What those who join from now on may see: what comes after, or everything." example:"joined"`
}

// NewParticipants is the body of POST /api/conversations/{id}/participants.
type NewParticipants struct {
	_       struct{}  `additionalProperties:"false"`
	UserIDs []ID      `json:"userIds" minItems:"1" maxItems:"100" doc:"Those who are in the group already are passed over."`
	Role    chat.Role `json:"role,omitempty" enum:"admin,member" doc:"member if left out; only the owner adds admins." example:"member"`
}

// ParticipantUpdate is the body of PATCH /api/conversations/{id}/participants/{userId}.
type ParticipantUpdate struct {
	_    struct{}  `additionalProperties:"false"`
	Role chat.Role `json:"role" enum:"owner,admin,member" doc:"owner: the group is handed over, and its owner becomes an admin." example:"admin"`
}

type byParticipant struct {
	ID     ID `path:"id"`
	UserID ID `path:"userId"`
}

func (s *server) groups() {
	tags := []string{"conversations"}
	register(s, s.secured(huma.Operation{
		OperationID: "updateConversation", Method: http.MethodPatch, Path: "/api/conversations/{id}", Tags: tags, Summary: "Change a group",
		Description: "Its owner and admins may. Each change is an event in the log.",
	}), s.updateConversation, chat.Forbidden, chat.NotFound)
	register(s, s.secured(huma.Operation{
		OperationID: "listParticipants", Method: http.MethodGet, Path: "/api/conversations/{id}/participants", Tags: tags,
		Summary: "List who is in a conversation, by user id",
	}), s.listParticipants, chat.NotFound)
	register(s, s.secured(huma.Operation{
		OperationID: "addParticipants", Method: http.MethodPost, Path: "/api/conversations/{id}/participants", MaxBodyBytes: maxBigBodyBytes + 1, Tags: tags, Summary: "Add users to a group",
		Description: "Its owner and admins may. The answer has the places of all that were named, those who were there already included. " +
			"A group has at most 10,000 members.",
	}), s.addParticipants, chat.Forbidden, chat.NotFound, chat.Conflict)
	register(s, s.secured(huma.Operation{
		OperationID: "updateParticipant", Method: http.MethodPatch, Path: "/api/conversations/{id}/participants/{userId}", Tags: tags,
		Summary: "Give a member of a group another role", Description: "Its owner may.",
	}), s.updateParticipant, chat.Forbidden, chat.NotFound)
	register(s, s.secured(huma.Operation{
		OperationID: "removeParticipant", Method: http.MethodDelete, Path: "/api/conversations/{id}/participants/{userId}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "Leave a group, or remove somebody from it",
		Description: "The owner removes anybody, admins remove members. From the commit on the user receives nothing of it. " +
			"When the owner leaves, the admin who has been there for longest follows, or the member. It may be repeated.",
	}), s.removeParticipant, chat.Forbidden, chat.NotFound)
}

func (s *server) updateConversation(ctx context.Context, in *struct {
	ID   ID `path:"id"`
	Body ConversationUpdate
},
) (*body[Conversation], error) {
	c, err := s.chat.UpdateConversation(ctx, chat.ConversationUpdate{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), Title: in.Body.Title, History: in.Body.History,
	})
	if err != nil {
		return nil, err
	}
	return &body[Conversation]{conversationOf(c)}, nil
}

func (s *server) listParticipants(ctx context.Context, in *struct {
	ID ID `path:"id"`
	Paging
},
) (*body[Page[Participant]], error) {
	me := principal(ctx)
	after, err := in.after(me.UserID, string(in.ID), participantsCursor)
	if err != nil {
		return nil, err
	}
	found, err := s.chat.ListParticipants(ctx, me.UserID, in.ID.chatID(), after, in.Limit+1) // one more tells whether there are more
	if err != nil {
		return nil, err
	}
	var next string
	if len(found) > in.Limit {
		found = found[:in.Limit]
		next = encodeCursor(participantsCursor, me.UserID, string(in.ID), found[in.Limit-1].UserID[:])
	}
	return &body[Page[Participant]]{newPage(participantsOf(found), next)}, nil
}

// after returns the id that a page begins behind; zero: it is the first.
func (p *Paging) after(user chat.ID, scope string, kind cursorKind) (chat.ID, error) {
	if p.Cursor == "" {
		return chat.ID{}, nil
	}
	_, key, err := decodeCursor(p.Cursor, user, scope, kind)
	if err != nil {
		return chat.ID{}, err
	}
	id, ok := parseIDKey(key)
	if !ok {
		return chat.ID{}, badCursor()
	}
	return id, nil
}

func (s *server) addParticipants(ctx context.Context, in *struct {
	ID   ID `path:"id"`
	Body NewParticipants
},
) (*body[Page[Participant]], error) {
	found, err := s.chat.AddParticipants(ctx, chat.NewParticipants{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), Users: chatIDs(in.Body.UserIDs), Role: in.Body.Role,
	})
	if err != nil {
		return nil, err
	}
	return &body[Page[Participant]]{newPage(participantsOf(found), "")}, nil
}

func (s *server) updateParticipant(ctx context.Context, in *struct {
	ID     ID `path:"id"`
	UserID ID `path:"userId"`
	Body   ParticipantUpdate
},
) (*body[Participant], error) {
	p, err := s.chat.SetParticipantRole(ctx, chat.ParticipantChange{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), UserID: in.UserID.chatID(), Role: in.Body.Role,
	})
	if err != nil {
		return nil, err
	}
	return &body[Participant]{participantOf(p)}, nil
}

func (s *server) removeParticipant(ctx context.Context, in *byParticipant) (*struct{}, error) {
	return nil, s.chat.RemoveParticipant(ctx, chat.ParticipantChange{
		Actor: principal(ctx).UserID, ConversationID: in.ID.chatID(), UserID: in.UserID.chatID(),
	})
}
