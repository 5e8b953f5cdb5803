package client

import (
	"context"
	"encoding/json"
)

// MarkRead tells that one has read a conversation up to a seq, in the manner of Send.
// It only goes forward: a smaller seq changes nothing, and it may be repeated. Invalid
// if the log does not reach so far.
func (c *Client) MarkRead(ctx context.Context, conversation ID, upTo int64) error {
	payload, err := json.Marshal(map[string]int64{"upTo": upTo})
	if err != nil {
		return &Error{Op: "mark read", Code: Invalid, Err: err}
	}
	_, err = c.publish(ctx, "mark read", conversationTopic(conversation, "reads"), payload, true)
	return err
}
