package rest

import (
	"context"
	"strconv"
	"strings"

	"github.com/parleymq/parley/chat"
)

// Presence is how a user is shown.
type Presence struct {
	UserID       ID          `json:"userId"`
	Status       chat.Status `json:"status" enum:"online,away,offline,invisible" doc:"invisible: only for yourself."`
	LastOnlineAt *Time       `json:"lastOnlineAt" nullable:"true" doc:"null: they are online now, or never were."`
}

// Presences are those that were asked for and may be seen.
type Presences struct {
	Data []Presence `json:"data" nullable:"false"`
}

type presenceQuery struct {
	UserIDs []string `query:"userIds,explode" required:"true" doc:"1 to 100 user ids, separated by commas or in repeated parameters." example:"0198c0de-0000-7000-8000-000000000000"`
}

func (s *server) presence() {
	register(s, s.secured(op("presence", "GET /api/presence", "listPresence", "See who is online",
		"For yourself and your contacts: users with whom you share a conversation of at most 500 members, unless one of you has blocked the other. "+
			"Anybody else is left out, whether or not they exist. Changes are published over MQTT, on `user/{id}/presence`.",
	)), s.listPresence)
}

func (s *server) listPresence(ctx context.Context, in *presenceQuery) (*body[Presences], error) {
	ids, err := in.ids()
	if err != nil {
		return nil, err
	}
	list, err := s.presences.List(ctx, principal(ctx).UserID, ids)
	if err != nil {
		return nil, err
	}
	return &body[Presences]{Presences{mapped(list, func(p *chat.Presence) Presence {
		return Presence{UserID: idOf(p.UserID), Status: p.Status, LastOnlineAt: timeOf(p.LastOnlineAt)}
	})}}, nil
}

func (in *presenceQuery) ids() ([]chat.ID, error) {
	bad := func(msg string) error { return &chat.Error{Code: chat.Invalid, Field: "userIds", Msg: msg} }
	var ids []chat.ID
	for _, texts := range in.UserIDs {
		for text := range strings.SplitSeq(texts, ",") {
			id, err := chat.ParseID(text)
			if err != nil {
				return nil, bad("must be UUIDs, separated by commas")
			}
			if ids = append(ids, id); len(ids) > chat.MaxPresences {
				return nil, bad("has too many users, limit " + strconv.Itoa(chat.MaxPresences))
			}
		}
	}
	return ids, nil
}
