package client

import (
	"context"
	"iter"
	"net/http"
	"time"
)

// Block is a user whom the caller has blocked.
type Block struct {
	UserID      ID        `json:"userId"`
	Username    string    `json:"username"`
	DisplayName string    `json:"displayName"`
	CreatedAt   time.Time `json:"createdAt"`
}

// Block blocks a user: neither can write to the other, or see that the other is online
// or typing. It may be repeated.
func (a *API) Block(ctx context.Context, user ID) error {
	return a.do(ctx, call{op: "block", method: http.MethodPut, path: at("blocks", string(user))})
}

// Unblock unblocks a user. It may be repeated.
func (a *API) Unblock(ctx context.Context, user ID) error {
	return a.do(ctx, call{op: "unblock", method: http.MethodDelete, path: at("blocks", string(user))})
}

// Blocks lists the users whom the caller has blocked.
func (a *API) Blocks(ctx context.Context) iter.Seq2[*Block, error] {
	return list[Block](ctx, a, call{op: "list blocks", path: "/api/blocks"})
}
