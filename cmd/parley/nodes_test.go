package main_test

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/cluster/redistest"
	"github.com/parleymq/parley/store/storetest"
)

// pair is two nodes on one database and one Redis, and two users who talk.
type pair struct {
	a, b     *server
	ann, bob user
	topic    string
	sender   *brokertest.Client // bob's, at b
}

func newPair(t *testing.T) *pair {
	t.Helper()
	redis := redistest.Start(t)
	env := []string{"DATABASE_URL=" + storetest.DSN(t), "REDIS_URL=" + redis.URL()}
	p := &pair{a: serve(t, append(env, "PARLEY_NODE=a")), b: serve(t, append(env, "PARLEY_NODE=b"))}
	p.ann, p.bob = p.a.user(t, "ann"), p.a.user(t, "bob")
	p.topic = "conv/" + p.a.direct(t, p.ann, p.bob) + "/messages"
	p.sender = brokertest.Open(t, p.b.MQTT, brokertest.Connect{ClientID: "sender", Password: p.bob.Token})
	return p
}

// phone connects ann's phone, whose session is kept, to a node.
func (p *pair) phone(t *testing.T, s *server) *brokertest.Client {
	t.Helper()
	c := brokertest.Dial(t, s.MQTT)
	c.MustConnect(brokertest.Connect{ClientID: "phone", Password: p.ann.Token, Persistent: true, SessionExpiry: 3600, KeepAlive: 600})
	c.AutoAck = true
	return c
}

// expect waits for a message with this text, and passes over what else there is.
func expect(t *testing.T, c *brokertest.Client, text string) {
	t.Helper()
	for {
		if pk := c.Await(packets.Publish); strings.Contains(string(pk.Payload), text) {
			return
		}
	}
}

// rest returns everything that comes until the connection has ended.
func rest(t *testing.T, c *brokertest.Client) (list []packets.Packet) {
	t.Helper()
	for {
		pk, err := c.Recv(brokertest.Patience)
		if err != nil {
			return list
		}
		list = append(list, pk)
	}
}

// A node that is stopped for a while, and goes on, neither delivers nor acknowledges
// anything for a session that has moved to another node meanwhile, and stores nothing
// that comes over its old connection. One that was stopped for so long that another
// node has evicted it ends all its connections, and rejoins.
func TestNodeStandsStill(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		pause   time.Duration
		evicted bool
	}{"for a while": {4 * time.Second, false}, "for long": {14 * time.Second, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			old := p.phone(t, p.a)
			old.MustSubscribe(1, "conv/+/messages")
			stays := brokertest.Open(t, p.a.MQTT, brokertest.Connect{ClientID: "stays", Password: p.ann.Token, KeepAlive: 600})
			stays.AutoAck = true
			stays.MustSubscribe(1, "conv/+/messages")
			p.sender.Publish(1, p.topic, "before")
			expect(t, old, "before")
			expect(t, stays, "before")

			if err := syscall.Kill(p.a.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			still := time.Now()
			old.PublishAsync(1, p.topic, "over the old connection") // which the kernel takes
			moved := p.phone(t, p.b)
			p.sender.Publish(1, p.topic, "meanwhile")
			expect(t, moved, "meanwhile")
			time.Sleep(time.Until(still.Add(c.pause))) // what this test is about
			if err := syscall.Kill(p.a.cmd.Process.Pid, syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			for _, pk := range rest(t, old) {
				if pk.FixedHeader.Type != packets.Disconnect {
					t.Errorf("the old connection got %s", brokertest.Describe(pk))
				}
			}
			for _, m := range p.b.history(t, p.ann.Token, strings.Split(p.topic, "/")[1]) {
				if strings.Contains(m.Content, "old connection") {
					t.Errorf("what came over the old connection is stored: %+v", m)
				}
			}
			if c.evicted {
				list := rest(t, stays)
				if n := len(list); n == 0 || list[n-1].FixedHeader.Type != packets.Disconnect {
					t.Errorf("a connection of a node that was evicted got %d packets, and no DISCONNECT", n)
				}
				stays = brokertest.Open(t, p.a.MQTT, brokertest.Connect{ClientID: "stays", Password: p.ann.Token})
				stays.AutoAck = true
				stays.MustSubscribe(1, "conv/+/messages")
			} else {
				expect(t, stays, "meanwhile")
			}
			p.sender.Publish(1, p.topic, "after")
			expect(t, stays, "after")
			expect(t, moved, "after")
			moved.Ping()
		})
	}
}

// The sessions of a node that is killed go on at another one at once. Contacts hear of
// those who do not come back that they are offline, and of the others nothing.
func TestNodeIsKilled(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	eve := p.a.user(t, "eve")
	p.a.direct(t, eve, p.bob)
	contacts := brokertest.Open(t, p.b.MQTT, brokertest.Connect{ClientID: "contacts", Password: p.bob.Token, KeepAlive: 600})
	contacts.MustSubscribe(0, "user/+/presence")
	d := p.phone(t, p.a)
	d.MustSubscribe(1, "conv/+/messages")
	brokertest.Open(t, p.a.MQTT, brokertest.Connect{ClientID: "eve", Password: eve.Token, KeepAlive: 600})
	for _, u := range []user{p.ann, eve} {
		expectStatus(t, contacts, u, "online")
	}
	p.sender.Publish(1, p.topic, "before")
	expect(t, d, "before")
	p.a.Stop(syscall.SIGKILL)
	killed := time.Now()
	p.sender.Publish(1, p.topic, "meanwhile")
	d = p.phone(t, p.b)
	expect(t, d, "meanwhile")
	d.Publish(1, p.topic, "from the phone")
	expect(t, d, "from the phone")
	statuses := expectStatus(t, contacts, eve, "offline")
	t.Logf("eve was shown as offline %v after her node was killed", time.Since(killed).Round(time.Millisecond))
	if list := statuses[p.ann.ID]; slices.ContainsFunc(list, func(s string) bool { return s != "online" }) {
		t.Errorf("ann, who came back elsewhere, was shown as %v", list)
	}
	if !strings.Contains(p.b.Log(), `"evicted_node":"a"`) {
		t.Error("the node was not evicted")
	}
	d.Ping()
}

// expectStatus waits until the user is shown with a status, and returns what was shown
// of all until then.
func expectStatus(t *testing.T, c *brokertest.Client, u user, status string) map[string][]string {
	t.Helper()
	seen := map[string][]string{}
	for {
		pk := c.Await(packets.Publish)
		var presence struct{ UserID, Status string }
		if err := json.Unmarshal(pk.Payload, &presence); err != nil {
			t.Fatalf("%s: %v", brokertest.Describe(pk), err)
		}
		seen[presence.UserID] = append(seen[presence.UserID], presence.Status)
		if presence.UserID == u.ID && presence.Status == status {
			return seen
		}
	}
}
