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
	Addr     string                // of the server's MQTT listener
	AddrOf   func(user int) string `json:"-"` // as in Options; nil: all have Addr
	Tokens   []string              // a connection for each user
	Contacts int                   // of each user, who must all have been shown as online in the end
	Among    [][]string            // the ids that count, for each user, one's own too; nil: all do
	Dialing  int                   // connections made at once
}

// PresenceResult is what was measured.
type PresenceResult struct {
	Elapsed   time.Duration // from the first CONNECT until everybody knows that all of their contacts are online
	Connected time.Duration // until the last SUBACK
	Signals   int64         // that arrived by then
}

// Presence connects everybody, subscribes them to their contacts' presence, and returns
// when each has been notified that all contacts are online. If ctx ends before, the error is its cause, and the
// result has what has arrived.
func Presence(ctx context.Context, o PresenceOptions) (*PresenceResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var res PresenceResult
	var signals atomic.Int64
	var dialed, informed, readers sync.WaitGroup
	clients := make([]*client, len(o.Tokens))
	start := time.Now()
	informed.Add(len(o.Tokens))
	dialed.Go(func() {
		if err := each(ctx, len(o.Tokens), o.Dialing, func(ctx context.Context, i int) error {
			addr := o.Addr
			if o.AddrOf != nil {
				addr = o.AddrOf(i)
			}
			c, err := dial(ctx, identity{addr: addr, clientID: "presence", token: o.Tokens[i], buffers: 2 << 10})
			if err != nil {
				return fmt.Errorf("user %d: %w", i, err)
			}
			clients[i] = c
			if err := c.subscribe("user/+/presence", 0); err != nil {
				return fmt.Errorf("user %d: %w", i, err)
			}
			var among []string
			if o.Among != nil {
				among = o.Among[i]
			}
			readers.Go(func() { readPresence(c, o.Contacts, among, &signals, informed.Done) }) // ends with its connection
			return nil
		}); err != nil {
			cancel(err)
		}
	})
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
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	elapsed := time.Since(start)
	cancel(nil)
	dialed.Wait()
	for _, c := range clients {
		if c != nil {
			_ = c.conn.SetReadDeadline(time.Unix(1, 0))
		}
	}
	readers.Wait()
	leaveAll(clients)
	if err != nil {
		return &PresenceResult{Elapsed: elapsed, Signals: signals.Load()}, err
	}
	res.Elapsed, res.Signals = elapsed, signals.Load()
	return &res, nil
}

// readPresence reads until the connection ends, and calls done when so many users have
// been shown as online, beside the one it is.
func readPresence(c *client, contacts int, among []string, signals *atomic.Int64, done func()) {
	online := make(map[string]struct{}, contacts+1)
	counts := make(map[string]bool, len(among))
	for _, id := range among {
		counts[id] = true
	}
	for {
		header, body, err := c.read()
		if err != nil {
			return
		}
		if header>>4 != typePublish || len(body) < 2+len("user/")+36 {
			continue
		}
		signals.Add(1)
		id := body[2+len("user/"):][:36]
		if !bytes.Contains(body, []byte(`"status":"online"`)) || among != nil && !counts[string(id)] {
			continue
		}
		if _, ok := online[string(id)]; ok {
			continue
		}
		online[string(id)] = struct{}{}
		if len(online) == contacts+1 {
			done()
		}
	}
}
