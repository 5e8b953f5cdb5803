package topics_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
	"github.com/parleymq/parley/topics"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var (
	alice = chat.MustParseID("00000000-0000-7000-8000-0000000000a1")
	bob   = chat.MustParseID("00000000-0000-7000-8000-0000000000b2")
)

func user(id chat.ID, clientID string) chat.TopicUser {
	return chat.TopicUser{Principal: chat.Principal{UserID: id}, ClientID: clientID}
}

// receiver is a session in memory.
type receiver struct {
	mu   sync.Mutex
	got  []chat.PublicationCopy
	away bool
}

func (r *receiver) Receive(c chat.PublicationCopy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, c)
}

func (r *receiver) Present() bool { return !r.away }

func (r *receiver) payloads() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, c := range r.got {
		list = append(list, string(c.Payload))
	}
	return list
}

func hold(t *testing.T, e *topics.Engine, r topics.Receiver, u chat.TopicUser, text string, change ...func(*topics.Subscription)) {
	t.Helper()
	f, err := e.MaySubscribe(u, text)
	if err != nil {
		t.Fatal(err)
	}
	s := topics.Subscription{Filter: f, QoS: 2}
	for _, c := range change {
		c(&s)
	}
	e.Subscribe(r, u, text, s)
}

// Random filters of many sessions, which come and go, find what the naive matcher finds:
// each session once, at the highest QoS, with all identifiers.
func TestTreeAgainstNaive(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	levels := []string{"a", "b", "", "+", "dev", "$x"}
	topic := func(wild bool) string {
		var parts []string
		for range 1 + r.IntN(4) {
			if l := levels[r.IntN(len(levels))]; wild || l != "+" {
				parts = append(parts, l)
			}
		}
		if wild && r.IntN(3) == 0 {
			parts = append(parts, "#")
		}
		return strings.Join(parts, "/")
	}
	type held struct {
		id  uint32
		qos byte
	}
	for _, one := range []bool{true, false} {
		e := topics.New(topics.Options{Access: topics.Open{}, OneSpace: one})
		users := []chat.ID{alice, bob}
		var receivers [6]*receiver
		var filters [6]map[string]held
		for i := range receivers {
			receivers[i], filters[i] = &receiver{}, map[string]held{}
		}
		for step := range 20_000 {
			i := r.IntN(len(receivers))
			u := user(users[i%2], fmt.Sprint(i))
			switch n := r.IntN(10); {
			case n < 4:
				text := topic(true)
				if _, err := topics.ParseFilter(text); err != nil {
					continue
				}
				h := held{uint32(step + 1), byte(r.IntN(3))}
				hold(t, e, receivers[i], u, text, func(s *topics.Subscription) { s.Identifier, s.QoS = h.id, h.qos })
				filters[i][text] = h
			case n < 6 && len(filters[i]) > 0:
				for text := range filters[i] {
					e.Unsubscribe(receivers[i], text)
					delete(filters[i], text)
					break
				}
			case n == 6 && r.IntN(20) == 0:
				e.End(receivers[i])
				clear(filters[i])
			default:
				name := topic(false)
				if topics.CheckName(name) != nil || name == "dev" && !one { // which belongs to nobody
					continue
				}
				p := &chat.Publication{Topic: name, QoS: 2, Space: e.Space(u.Principal.UserID, name)}
				e.Arrive(p)
				for j, rec := range receivers {
					var ids []uint32
					var qos byte
					for text, h := range filters[j] {
						if naive(text, name) && (p.Space.IsZero() || p.Space == users[j%2]) {
							ids, qos = append(ids, h.id), max(qos, h.qos)
						}
					}
					got := rec.got
					rec.got = nil
					if len(ids) == 0 && len(got) == 0 {
						continue
					}
					if len(got) != min(1, len(ids)) {
						t.Fatalf("step %d: %q came %d times to %v", step, name, len(got), filters[j])
					}
					have := slices.Clone(got[0].Subscriptions)
					slices.Sort(have)
					slices.Sort(ids)
					if got[0].QoS != qos || !slices.Equal(have, ids) {
						t.Fatalf("step %d: %q came at QoS %d by %v, want %d by %v", step, name, got[0].QoS, have, qos, ids)
					}
				}
			}
		}
		for _, rec := range receivers {
			e.End(rec)
		}
		if n, sessions := e.Counts(); n != 0 || sessions != 0 {
			t.Errorf("%d filters of %d sessions are left", n, sessions)
		}
	}
}

// run runs an engine on a database of its own until the test ends.
func run(t *testing.T, s *store.Store, o topics.Options) *topics.Engine {
	t.Helper()
	o.Store = s
	e := topics.New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e
}

// Publications of one lane come in their order, retained ones among them after their
// commit, and every one is acknowledged once.
func TestLaneKeepsOrder(t *testing.T) {
	t.Parallel()
	e := run(t, storetest.New(t), topics.Options{Access: topics.Open{}, OneSpace: true})
	r := &receiver{}
	hold(t, e, r, user(bob, "r"), "#")
	const lanes, each = 8, 200
	var wg sync.WaitGroup
	for l := range lanes {
		wg.Go(func() {
			var lane topics.Lane
			var acked sync.WaitGroup
			for i := range each {
				acked.Add(1)
				p := &chat.Publication{Topic: fmt.Sprintf("t/%d/%d", l, i%3), QoS: 1, Retain: i%5 == 0, Payload: []byte(fmt.Sprintf("%d %d", l, i))}
				e.Publish(context.Background(), &lane, alice, p, func(matched bool, err error) {
					if err != nil || !matched {
						t.Errorf("matched = %v, error %v", matched, err)
					}
					acked.Done()
				})
			}
			acked.Wait()
		})
	}
	wg.Wait()
	next := [lanes]int{}
	for _, text := range r.payloads() {
		var l, i int
		if _, err := fmt.Sscan(text, &l, &i); err != nil || next[l] != i {
			t.Fatalf("%q came, want number %d of that lane", text, next[l])
		}
		next[l]++
	}
	if len(r.got) != lanes*each {
		t.Errorf("%d came of %d", len(r.got), lanes*each)
	}
}

// publish publishes and waits for the outcome.
func publish(e *topics.Engine, u chat.ID, p *chat.Publication) error {
	done := make(chan error, 1)
	e.Publish(context.Background(), new(topics.Lane), u, p, func(_ bool, err error) { done <- err })
	return <-done
}

// A message that comes live while retained ones are read is not followed by an older one
// of its topic.
func TestFeedKnowsWhatIsNewer(t *testing.T) {
	t.Parallel()
	e := run(t, storetest.New(t), topics.Options{Access: topics.Open{}, OneSpace: true})
	for i := range 20 {
		if err := publish(e, alice, &chat.Publication{Topic: fmt.Sprintf("f/%02d", i), Retain: true, Payload: []byte("old")}); err != nil {
			t.Fatal(err)
		}
	}
	r := &receiver{}
	u := user(bob, "r")
	hold(t, e, r, u, "f/#")
	f, _ := topics.ParseFilter("f/#")
	full := true
	err := e.FeedRetained(t.Context(), r, topics.Subscription{Filter: f, QoS: 2}, topics.Feed{
		Offer: func(c chat.PublicationCopy) bool {
			if full {
				return false
			}
			r.Receive(c)
			return true
		},
		Wait: func(context.Context) error { // a page has been read by now
			full = false
			return publish(e, alice, &chat.Publication{Topic: "f/07", Retain: true, Payload: []byte("new")})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	var of7 []string
	for _, c := range r.got {
		if c.Topic == "f/07" {
			of7 = append(of7, string(c.Payload))
		}
	}
	if len(r.got) != 20 || !slices.Equal(of7, []string{"new"}) {
		t.Errorf("%d came, of the one that changed %q", len(r.got), of7)
	}
}

// Of a group the members who are connected take turns; those who are away come after
// them, and those who may not receive never.
func TestGroups(t *testing.T) {
	t.Parallel()
	e := topics.New(topics.Options{Access: notFor{"no"}, OneSpace: true})
	var members [4]*receiver
	for i := range members {
		members[i] = &receiver{}
		hold(t, e, members[i], user(alice, []string{"a", "b", "c", "no"}[i]), "$share/g/x")
	}
	counts := func() (n [4]int) {
		for i, m := range members {
			n[i], m.got = len(m.got), nil
		}
		return n
	}
	send := func(n int) {
		for range n {
			e.Arrive(&chat.Publication{Topic: "x"})
		}
	}
	if send(30); counts() != [4]int{10, 10, 10, 0} {
		t.Error("they do not take turns")
	}
	members[1].away = true
	if send(30); counts() != [4]int{15, 0, 15, 0} {
		t.Error("who is away gets something, or the others not the same")
	}
	members[0].away, members[2].away = true, true
	if send(30); counts()[3] != 0 {
		t.Error("who may not receive got something")
	}
	e.End(members[1])
	e.End(members[2])
	if send(3); counts() != [4]int{3, 0, 0, 0} {
		t.Error("who is left does not get it")
	}
}

// notFor is a chat.TopicAccess that lets all but one client receive.
type notFor struct{ clientID string }

func (notFor) MayPublish(chat.TopicUser, string) bool       { return true }
func (notFor) MaySubscribe(chat.TopicUser, string) bool     { return true }
func (n notFor) MayReceive(u chat.TopicUser, _ string) bool { return u.ClientID != n.clientID }

// What was accepted here is forwarded, in its order and once; what arrives from
// elsewhere is not.
func TestForward(t *testing.T) {
	t.Parallel()
	var forwarded []string
	e := run(t, storetest.New(t), topics.Options{Access: topics.Open{}, OneSpace: true, Forward: func(p *chat.Publication) { forwarded = append(forwarded, p.Topic) }})
	r := &receiver{}
	hold(t, e, r, user(bob, "r"), "#")
	for i := range 3 {
		if err := publish(e, alice, &chat.Publication{Topic: fmt.Sprint(i), Retain: i == 1, Payload: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	e.Arrive(&chat.Publication{Topic: "elsewhere"})
	if !slices.Equal(forwarded, []string{"0", "1", "2"}) || len(r.got) != 4 {
		t.Errorf("forwarded %v, received %d", forwarded, len(r.got))
	}
}

// While the database is away retained messages are given up after a while, and nobody
// has heard of them; what is not retained goes on.
func TestRetainedUnavailable(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	e := run(t, s, topics.Options{Access: topics.Open{}, OneSpace: true, MaxRetained: 1})
	r := &receiver{}
	hold(t, e, r, user(bob, "r"), "#")
	s.Close()
	start := time.Now()
	done := make(chan error, 1)
	e.Publish(t.Context(), new(topics.Lane), alice, &chat.Publication{Topic: "a", Retain: true, Payload: []byte("x")}, func(_ bool, err error) { done <- err })
	if err := publish(e, alice, &chat.Publication{Topic: "b", Payload: []byte("y")}); err != nil {
		t.Error(err)
	}
	if err := <-done; chat.CodeOf(err) != chat.Unavailable {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	if got := r.payloads(); !slices.Equal(got, []string{"y"}) {
		t.Errorf("received %q", got)
	}
}
