package bench

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// PresenceOptions says who is to come online.
type PresenceOptions struct {
	Addr     string   // of the server's MQTT listener
	Tokens   []string // a connection for each user
	Contacts int      // of each user, who must all have been shown as online in the end
	Dialing  int      // connections made at once
}

// PresenceResult is what was measured.
type PresenceResult struct {
	Elapsed   time.Duration // from the first CONNECT until everybody knows that all of their contacts are online
	Connected time.Duration // until the last SUBACK
	Signals   int64         // that arrived by then
}

// Presence connects everybody, subscribes them to their contacts' presence, and returns
// when each has been notified that all contacts are online.
func Presence(ctx context.Context, o PresenceOptions) (*PresenceResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var res PresenceResult
	var signals atomic.Int64
	var dialed, informed, readers sync.WaitGroup
	places := make(chan struct{}, o.Dialing)
	clients := make([]*client, len(o.Tokens))
	start := time.Now()
	informed.Add(len(o.Tokens))
	for i, token := range o.Tokens {
		dialed.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			if ctx.Err() != nil {
				return
			}
			c, err := dialSized(o.Addr, "presence", token, 2<<10)
			if err == nil {
				clients[i] = c
				err = c.subscribe("user/+/presence", 0)
			}
			if err != nil {
				cancel(fmt.Errorf("user %d: %w", i, err))
				return
			}
			readers.Go(func() { readPresence(c, o.Contacts, &signals, informed.Done) }) // ends with its connection
		})
	}
	done := make(chan struct{})
	go func() { // ends when all is received; it is left behind after an error
		dialed.Wait()
		res.Connected = time.Since(start)
		informed.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
		res.Elapsed, res.Signals = time.Since(start), signals.Load()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	cancel(nil)
	dialed.Wait()
	for _, c := range clients {
		if c != nil {
			_ = c.conn.Close()
		}
	}
	readers.Wait()
	return &res, err
}

// readPresence reads until the connection ends, and calls done when so many users have
// been shown as online, beside the one it is.
func readPresence(c *client, contacts int, signals *atomic.Int64, done func()) {
	online := make(map[[36]byte]struct{}, contacts+1)
	for {
		header, body, err := c.read()
		if err != nil {
			return
		}
		if header>>4 != typePublish || len(body) < 2+len("user/")+36 {
			continue
		}
		signals.Add(1)
		if !bytes.Contains(body, []byte(`"status":"online"`)) {
			continue
		}
		id := [36]byte(body[2+len("user/"):])
		if _, ok := online[id]; ok {
			continue
		}
		online[id] = struct{}{}
		if len(online) == contacts+1 {
			done()
		}
	}
}
