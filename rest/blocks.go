package rest

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

// Block is somebody whom one has blocked.
type Block struct {
	UserID      ID     `json:"userId"`
	Username    string `json:"username" example:"mallory"`
	DisplayName string `json:"displayName" example:"Mallory"`
	CreatedAt   Time   `json:"createdAt"`
}

type byUser struct {
	UserID ID `path:"userId"`
}

func (s *server) blocks() {
	tags := []string{"users"}
	register(s, s.secured(huma.Operation{
		OperationID: "blockUser", Method: http.MethodPut, Path: "/api/blocks/{userId}", Tags: tags, DefaultStatus: http.StatusNoContent, Summary: "Block a user",
		Description: "Neither can begin a direct conversation with the other, write in the one they have, add the other to a group, " +
			"or see the other type or be online. Who has blocked whom is not told. One may block 10,000 users. It may be repeated.",
	}), s.blockUser, chat.NotFound, chat.Conflict)
	register(s, s.secured(huma.Operation{
		OperationID: "unblockUser", Method: http.MethodDelete, Path: "/api/blocks/{userId}", Tags: tags, DefaultStatus: http.StatusNoContent,
		Summary: "End a block", Description: "It may be repeated.",
	}), s.unblockUser)
	register(s, s.secured(huma.Operation{
		OperationID: "listBlocks", Method: http.MethodGet, Path: "/api/blocks", Tags: tags, Summary: "List whom one has blocked, by user id",
	}), s.listBlocks)
}

func (s *server) blockUser(ctx context.Context, in *byUser) (*struct{}, error) {
	return nil, s.chat.BlockUser(ctx, principal(ctx).UserID, in.UserID.chatID())
}

func (s *server) unblockUser(ctx context.Context, in *byUser) (*struct{}, error) {
	return nil, s.chat.UnblockUser(ctx, principal(ctx).UserID, in.UserID.chatID())
}

func (s *server) listBlocks(ctx context.Context, in *struct{ Paging }) (*body[Page[Block]], error) {
	me := principal(ctx)
	after, err := in.after(me.UserID, "", blocksCursor)
	if err != nil {
		return nil, err
	}
	found, err := s.chat.ListBlocks(ctx, me.UserID, after, in.Limit+1) // one more tells whether there are more
	if err != nil {
		return nil, err
	}
	var next string
	if len(found) > in.Limit {
		found = found[:in.Limit]
		next = encodeCursor(blocksCursor, me.UserID, "", found[in.Limit-1].UserID[:])
	}
	out := make([]Block, 0, len(found))
	for i := range found {
		b := &found[i]
		out = append(out, Block{UserID: idOf(b.UserID), Username: b.Username, DisplayName: b.DisplayName, CreatedAt: Time(b.CreatedAt)})
	}
	return &body[Page[Block]]{newPage(out, next)}, nil
}
