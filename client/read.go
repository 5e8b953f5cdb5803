package client

import (
	"context"
	"encoding/json"
)

// MarkRead marks a conversation as read up to a seq; it retries like Send. A read position
// never moves back: a smaller seq changes nothing. It may be repeated. Invalid if the log
// ends before seq.
func (c *Client) MarkRead(ctx context.Context, conversation ID, upTo int64) error {
	payload, err := json.Marshal(map[string]int64{"upTo": upTo})
	if err != nil {
		return &Error{Op: "mark read", Code: Invalid, Err: err}
	}
	_, err = c.publish(ctx, "mark read", conversationTopic(conversation, "reads"), payload, true)
	return err
}
