package campaign

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

// Presence. Comers connect, disconnect and are cut off; watchers, their contacts, receive
// presence over MQTT, and ask for it over REST. At a checkpoint everybody must be shown as they
// are: online if connected, offline after DISCONNECT, and offline after the grace period if cut
// off, also by a kill of the server. Nobody is shown offline before the grace period is over.

const (
	presenceGrace = 10 * time.Second
	presenceSlack = 8 * time.Second // on a busy machine, with a database that is found again
	comers        = 4
)

// comer is a device whose user comes and goes.
type comer struct {
	c    *campaign
	user *user
	profile
	rng *rand.Rand

	mu                 sync.Mutex
	conn               net.Conn      // mu guards; nil: it is not here
	left               time.Duration // mu guards: when it was here last
	said               bool          // mu guards: the server has received its DISCONNECT
	came, disconnected time.Duration // mu guards: when it came last, and sent DISCONNECT last
}

// watcher receives the presence of comers.
type watcher struct {
	c    *campaign
	user *user
	profile

	mu    sync.Mutex
	ready bool              // mu guards: subscribed
	shown map[string]string // mu guards: by user id
}

func (c *campaign) makePresence(ctx context.Context) error {
	if len(c.nodes) > 1 {
		return nil // not worked out what holds after a node was evicted; presence's own tests cover several nodes
	}
	u := &user{name: "watcher"}
	if err := c.register(ctx, u); err != nil {
		return err
	}
	for i := range 2 {
		c.watchers = append(c.watchers, &watcher{c: c, user: u, profile: profile{clientID: fmt.Sprintf("watcher-%d", i), version: 4 + byte(i)}, shown: map[string]string{}})
	}
	for i := range comers {
		u := &user{name: fmt.Sprintf("comer-%d", i)}
		if err := c.register(ctx, u); err != nil {
			return err
		}
		if _, err := c.converse(ctx, u, map[string]any{"otherUserId": c.watchers[0].user.id}); err != nil {
			return err
		}
		c.comers = append(c.comers, &comer{
			c: c, user: u, profile: profile{clientID: u.name, version: 4 + byte(i%2), persistent: i/2 == 0, web: i == 1}, rng: rand.New(rand.NewPCG(c.o.Seed, uint64(7000+i))),
			left: -time.Minute, disconnected: -time.Minute, said: true,
		})
	}
	return nil
}

// open makes a connection that is accepted, or returns nil.
func (p *profile) open(ctx context.Context, c *campaign, u *user) (net.Conn, *bufio.Reader) {
	conn, err := p.dial(ctx, c.node())
	if err != nil {
		return nil, nil
	}
	r := bufio.NewReader(conn)
	if pk, err := p.handshake(ctx, c, u, conn, r); err == nil && pk.ReasonCode == 0 {
		return conn, r
	}
	_ = conn.Close()
	return nil, nil
}

// run comes and goes until ctx ends.
func (m *comer) run(ctx context.Context) {
	defer func() {
		m.mu.Lock()
		m.lost()
		m.mu.Unlock()
	}()
	for sleep(ctx, time.Duration(200+m.rng.IntN(1500))*time.Millisecond) {
		n := m.rng.IntN(10)
		m.mu.Lock()
		conn := m.conn
		m.mu.Unlock()
		switch {
		case conn == nil && (m.c.quiet.Load() || n < 3):
		case conn == nil:
			m.come(ctx)
		case m.c.quiet.Load() || n < 6:
			_, _ = conn.Write(m.encode(ack(packets.Pingreq, 0)))
		case n < 8:
			m.c.count("comers who have disconnected", 1)
			m.mu.Lock()
			m.disconnected = m.c.now()
			m.mu.Unlock()
			_, _ = conn.Write(m.encode(ack(packets.Disconnect, 0)))
			sleep(ctx, 300*time.Millisecond) // the server ends the connection
			m.mu.Lock()
			if m.conn == conn {
				m.lost()
			}
			m.mu.Unlock()
		default:
			m.c.count("comers who were cut off", 1)
			m.mu.Lock()
			m.lost()
			m.mu.Unlock()
		}
	}
}

// lost notes that the connection is gone. mu is held.
func (m *comer) lost() {
	if m.conn == nil {
		return
	}
	_ = m.conn.Close()
	m.conn, m.left, m.said = nil, m.c.now(), false
}

func (m *comer) come(ctx context.Context) {
	conn, r := m.open(ctx, m.c, m.user)
	if conn == nil {
		return
	}
	m.mu.Lock()
	m.conn, m.came, m.said = conn, m.c.now(), false
	m.mu.Unlock()
	m.c.wg.Go(func() { // ends with the connection, which ends with run
		for {
			_, err := m.next(m.c, r)
			if err == nil {
				continue
			}
			m.mu.Lock()
			if m.conn == conn {
				m.lost()
				m.said = errors.Is(err, io.EOF) && !m.c.down.faulty(m.left-time.Second, m.c.now())
			}
			m.mu.Unlock()
			return
		}
	})
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		conn, r := w.open(ctx, w.c, w.user)
		if conn == nil {
			sleep(ctx, 50*time.Millisecond)
			continue
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		w.watch(conn, r)
		stop()
		_ = conn.Close()
	}
}

func (w *watcher) watch(conn net.Conn, r *bufio.Reader) {
	w.mu.Lock()
	w.ready, w.shown = false, map[string]string{}
	w.mu.Unlock()
	if _, err := conn.Write(w.encode(w.subscribe(1, "user/+/presence"))); err != nil {
		return
	}
	for {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second)) // then it begins anew: a keepalive is no part of this
		pk, err := w.next(w.c, r)
		switch {
		case err != nil:
			return
		case pk.FixedHeader.Type == packets.Suback && pk.ReasonCodes[0] >= 0x80:
			return // the database was unavailable: once more
		case pk.FixedHeader.Type == packets.Suback:
			w.mu.Lock()
			w.ready = true
			w.mu.Unlock()
		case pk.FixedHeader.Type == packets.Publish:
			w.note(pk)
		}
	}
}

// note keeps how somebody is shown. Nobody may be shown offline who is connected, or may be back within
// the grace period.
func (w *watcher) note(pk packet) {
	c := w.c
	var e struct{ UserID, Status string }
	err := json.Unmarshal(pk.Payload, &e)
	if err != nil || pk.TopicName != "user/"+e.UserID+"/presence" {
		c.violate("protocol", "%s: on %s: %v: %.200q", w.clientID, pk.TopicName, err, pk.Payload)
		return
	}
	c.count("presence received", 1)
	w.mu.Lock()
	before := w.shown[e.UserID]
	w.shown[e.UserID] = e.Status
	w.mu.Unlock()
	if e.Status != "offline" || before != "online" {
		return
	}
	for _, m := range c.comers {
		if m.user.id.String() != e.UserID {
			continue
		}
		if here := m.hereUntil(); here > 0 && c.now()-here < presenceGrace-time.Second {
			c.violate("9 presence", "%s receives that %s is offline, %v after it was here", w.clientID, m.clientID, (c.now() - here).Round(time.Millisecond))
		}
	}
}

// hereUntil is when the device was last connected: now, if it is; 0 if that does not count
// because it had sent DISCONNECT, has just connected, or there was an outage within the last
// 15 s. So a status of offline that comes too early is not seen around outages.
func (m *comer) hereUntil() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.c.now()
	switch {
	case m.said, now-m.disconnected < 5*time.Second, m.c.down.faulty(now-15*time.Second, now):
		return 0
	case m.conn == nil:
		return m.left
	case now-m.came < 2*time.Second:
		return 0
	}
	return now
}

// judgePresence waits until everybody is shown as they are. Unless all is asked for, those
// who may still be within their grace are left out.
func (c *campaign) judgePresence(ctx context.Context, all bool) {
	c.await(ctx, presenceGrace+presenceSlack, func() string {
		want := map[string]string{}
		for _, m := range c.comers {
			m.mu.Lock()
			switch {
			case m.conn != nil:
				want[m.user.id.String()] = "online"
			case all || m.said || c.now()-m.left > presenceGrace+presenceSlack:
				want[m.user.id.String()] = "offline"
			}
			m.mu.Unlock()
		}
		for _, w := range c.watchers {
			if what := w.missing(ctx, want); what != "" {
				return what
			}
		}
		return ""
	}, "9 presence")
}

func (w *watcher) missing(ctx context.Context, want map[string]string) string {
	var asked []string
	w.mu.Lock()
	ready := w.ready
	for id, status := range want {
		asked = append(asked, id)
		if w.shown[id] != status {
			ready = false
		}
	}
	shown := fmt.Sprint(w.shown)
	w.mu.Unlock()
	if !ready {
		return fmt.Sprintf("%s has received %s, and it is %v", w.clientID, shown, want)
	}
	var answer struct {
		Data []struct{ UserID, Status string }
	}
	status, err := w.c.rest(ctx, w.user, http.MethodGet, "/api/presence?userIds="+strings.Join(asked, ","), nil, &answer)
	if err != nil || status != http.StatusOK || len(answer.Data) != len(asked) {
		return fmt.Sprintf("%s asks for presence: status %d, %v: %v", w.clientID, status, err, answer)
	}
	for _, p := range answer.Data {
		if want[p.UserID] != p.Status {
			return fmt.Sprintf("%s asks for presence, and gets %v; it is %v", w.clientID, answer, want)
		}
	}
	return ""
}
