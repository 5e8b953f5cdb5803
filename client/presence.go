package client

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

func (c *Client) presenceTopic() string { return "user/" + string(c.me.ID) + "/presence" }

// SetPresence sets the status that contacts are shown: Online (the default after
// connecting), Away, Invisible (shown as Offline until another status is set), or
// Offline, for a device that should not count. The client sets it again after each
// reconnect. It waits and retries like Send.
func (c *Client) SetPresence(ctx context.Context, status Status) error {
	c.mu.Lock()
	c.status = status
	c.mu.Unlock()
	return c.publishStatus(ctx, status)
}

func (c *Client) publishStatus(ctx context.Context, status Status) error {
	payload, err := json.Marshal(map[string]Status{"status": status})
	if err != nil {
		return &Error{Op: "set presence", Code: Invalid, Err: err}
	}
	_, err = c.publish(ctx, "set presence", c.presenceTopic(), payload, true)
	return err
}

// Presences returns the presence of users who are contacts, or the user's own; others are
// left out.
func (a *API) Presences(ctx context.Context, users ...ID) iter.Seq2[*Presence, error] {
	return func(yield func(*Presence, error) bool) {
		for some := range slices.Chunk(users, 100) {
			ids := make([]string, 0, len(some))
			for _, id := range some {
				ids = append(ids, string(id))
			}
			var page struct {
				Data []Presence `json:"data"`
			}
			c := call{op: "get presence", method: http.MethodGet, path: "/api/presence", query: url.Values{"userIds": {strings.Join(ids, ",")}}, out: &page}
			if err := a.do(ctx, c); err != nil {
				yield(nil, err)
				return
			}
			for i := range page.Data {
				if !yield(&page.Data[i], nil) {
					return
				}
			}
		}
	}
}
