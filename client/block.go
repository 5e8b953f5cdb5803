package client

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// Block is somebody whom one has blocked.
type Block struct {
	UserID      ID        `json:"userId"`
	Username    string    `json:"username"`
	DisplayName string    `json:"displayName"`
	CreatedAt   time.Time `json:"createdAt"`
}

// Block blocks a user: neither of the two can write to the other, or sees that the
// other is online or types. It may be repeated.
func (a *API) Block(ctx context.Context, user ID) error {
	return a.do(ctx, call{op: "block", method: http.MethodPut, path: at("blocks", string(user))})
}

// Unblock takes a block back. It may be repeated.
func (a *API) Unblock(ctx context.Context, user ID) error {
	return a.do(ctx, call{op: "unblock", method: http.MethodDelete, path: at("blocks", string(user))})
}

// Blocks lists whom one has blocked.
func (a *API) Blocks(ctx context.Context) iter.Seq2[*Block, error] {
	return list[Block](ctx, a, call{op: "list blocks", path: "/api/blocks"})
}
