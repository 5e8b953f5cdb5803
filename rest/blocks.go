package rest

import (
	"context"

	"github.com/parleymq/parley/chat"
)

// Block is a user whom the caller has blocked.
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
	const tag = "users"
	register(s, s.secured(op(tag, "PUT /api/blocks/{userId}", "blockUser", "Block a user",
		"Neither user can start a direct conversation with the other, write in the one they have, add the other to a group, "+
			"or see that the other is typing or online. Nobody is told who has blocked whom. A user may block up to 10,000 users. May be repeated.",
	)), s.blockUser, chat.NotFound, chat.Conflict)
	register(s, s.secured(op(tag, "DELETE /api/blocks/{userId}", "unblockUser", "Unblock a user", "May be repeated.")), s.unblockUser)
	register(s, s.secured(op(tag, "GET /api/blocks", "listBlocks", "List the users you have blocked, by user id", "")), s.listBlocks)
}

func (s *server) blockUser(ctx context.Context, in *byUser) (*struct{}, error) {
	return nil, s.chat.BlockUser(ctx, principal(ctx).UserID, in.UserID.chatID())
}

func (s *server) unblockUser(ctx context.Context, in *byUser) (*struct{}, error) {
	return nil, s.chat.UnblockUser(ctx, principal(ctx).UserID, in.UserID.chatID())
}

var blockList = list[chat.Block, chat.ID, Block]{
	kind: blocksCursor, parse: parseIDKey, key: func(b *chat.Block) []byte { return b.UserID[:] },
	show: func(b *chat.Block) Block {
		return Block{UserID: idOf(b.UserID), Username: b.Username, DisplayName: b.DisplayName, CreatedAt: Time(b.CreatedAt)}
	},
}

func (s *server) listBlocks(ctx context.Context, in *struct{ Paging }) (*body[Page[Block]], error) {
	return blockList.page(ctx, &in.Paging, "", s.chat.ListBlocks)
}
