package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

type tokenCmd struct {
	databaseFlags
	tokenFlags
	Username string        `arg:"" help:"User name or email address."`
	TTL      time.Duration `name:"ttl" default:"1h" help:"How long the token is valid, up to 720h."`
	outputFlags
}

// Run implements parley token. The token alone goes to standard output, so that
// it can be captured; what to know about it to standard error.
func (c *tokenCmd) Run(ctx context.Context, tty terminal) error {
	var o identity.Options
	if err := c.apply(&o); err != nil {
		return err
	}
	return c.withAccounts(ctx, o, func(accounts *identity.Service) error {
		token, expires, err := accounts.IssueToken(ctx, c.Username, c.TTL)
		if err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(tty.Out).Encode(map[string]string{"accessToken": token, "expiresAt": expires.UTC().Format(chat.TimeFormat)})
		}
		fmt.Fprintln(tty.Out, token)
		fmt.Fprintf(tty.Err, "Good until %s; disabling the user revokes it.\n", expires.Local().Format(time.DateTime))
		return nil
	})
}
