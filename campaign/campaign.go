package campaign

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
)

// Options says what campaign to run. Server and Dir are required.
type Options struct {
	Server  string        // the parley binary, see BuildServer
	Dir     string        // for the database and the logs; it must exist
	Seed    uint64        // of everything random
	For     time.Duration // how long rounds are begun; 1 minute
	Clients int           // devices; 24
	Round   time.Duration // of load and faults, before each checkpoint; 8 s
	MaxRSS  int64         // bytes of memory that each server may take; 0: any
	Nodes   int           // servers on the database; 1. More than one need Redis
	Redis   string        // between them: RedisSingle or RedisCluster; "": none
	Only    string        // faults whose names contain this; "": all
	Out     io.Writer     // progress, in lines; nil: none
}

// user owns devices.
type user struct {
	name, token string
	id          chat.ID
	steadyConv  string // of the users whom nobody may disturb; "" for the others
}

// message is something that was sent, by whatever interface and however often: a message
// or a command.
type message struct {
	kind                     kind
	name, content, key, conv string
	sender                   *user
	first                    time.Duration // when it was sent first
	about                    *message      // commands: the message that it is about
	by                       *client       // commands: the device
	via                      *server       // messages of the steady pair: where it was sent
	emoji, op                string        // reactions
	upTo                     int64         // reads

	at      stored        // messages: where it is, once a device has received it
	gone    time.Duration // campaign.mu guards: messages: when their deletion was acknowledged first; 0: it was not
	acked   bool          // campaign.mu guards
	nothing bool          // campaign.mu guards: an acknowledgement has said that there was nothing to do
	acks    []stored      // campaign.mu guards: distinct places that acknowledgements named
	found   int64         // owned by the checker: its seq; 0: not found yet
}

// campaign is one run.
type campaign struct {
	o     Options
	began time.Time
	out   io.Writer

	pg     *postgres
	redis  *redis    // nil: one server, without
	nodes  []*server // one or more
	db     outages   // the database was out of reach of a server
	down   outages   // that, or a server was
	struck faultList
	store  *store.Store

	users    []*user
	clients  []*client
	groups   []*movingGroup
	syncers  []*syncer
	comers   []*comer
	watchers []*watcher
	seldom   []string // conversations of all talkers, written to only as a fault falls: no later event heals what is lost
	wg       sync.WaitGroup
	posts    sync.WaitGroup // REST requests under way
	quiet    atomic.Bool    // a checkpoint: nothing new is written
	crowd    atomic.Bool    // many readers are stuck

	mu         sync.Mutex
	convs      map[*user][]string       // mu guards: where each user writes
	messages   map[string]*message      // mu guards: by content
	byID       map[string]*message      // mu guards: messages that a device has received
	commands   map[*message][]*message  // mu guards: by what they are about
	reads      map[absence]*readsOf     // mu guards: what users have said to have read
	absences   map[absence]*outages     // mu guards: when users were, or may have been, out of groups
	moving     map[string]*user         // mu guards: groups that members leave and come back to, and their owners
	titles     map[string]time.Duration // mu guards: of groups made in the run, and when they were asked for
	begins     []begun                  // mu guards: where sessions that are gone began
	counts     map[string]int64         // mu guards
	violations []Violation              // mu guards
	latencies  []time.Duration          // mu guards: of the steady pair, while nothing was down
	heals      heals                    // mu guards: of the steady pair, at different nodes, by what was struck
	levels     []time.Duration          // mu guards: of each checkpoint, until everybody had everything
	dice       *rand.Rand               // mu guards: which node is asked

	check checker
	httpc *http.Client
}

// Violation is a promise that was broken.
type Violation struct {
	Rule, Detail string
	At           time.Duration // since the campaign began
}

func (v Violation) String() string {
	return fmt.Sprintf("[%s] at %v: %s", v.Rule, v.At.Round(time.Millisecond), v.Detail)
}

// Report is what a campaign has seen.
type Report struct {
	Seed       uint64
	Elapsed    time.Duration
	Rounds     int
	Counts     map[string]int64
	Latencies  []time.Duration // of the steady pair
	PeakKiB    int64           // of the memory of any server
	Events     int             // in all logs, at the end
	Heals      heals           // how long events between nodes took, by what was struck meanwhile
	Levels     []time.Duration // from the end of each round's faults until everybody had everything
	Metrics    map[string]float64
	Violations []Violation
	ServerLogs []string
}

const maxViolations = 40

// Run runs a campaign. The error is of the campaign itself: what it found out about
// the server is in the report, whether or not there is an error.
func Run(ctx context.Context, o Options) (*Report, error) {
	if o.For == 0 {
		o.For = time.Minute
	}
	if o.Clients == 0 {
		o.Clients = 24
	}
	if o.Round == 0 {
		o.Round = 8 * time.Second
	}
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.Out == nil {
		o.Out = io.Discard
	}
	switch {
	case o.Nodes < 1 || o.Nodes > 26:
		return nil, fmt.Errorf("%d nodes, of 1 to 26", o.Nodes)
	case o.Redis != "" && o.Redis != RedisSingle && o.Redis != RedisCluster, o.Nodes > 1 && o.Redis == "":
		return nil, fmt.Errorf("Redis is %q between %d nodes; it is %q or %q, or for one node none", o.Redis, o.Nodes, RedisSingle, RedisCluster)
	}
	c := &campaign{
		o: o, began: time.Now(), out: o.Out, pg: &postgres{dir: o.Dir},
		convs: map[*user][]string{}, messages: map[string]*message{}, byID: map[string]*message{}, commands: map[*message][]*message{},
		absences: map[absence]*outages{}, reads: map[absence]*readsOf{}, moving: map[string]*user{}, titles: map[string]time.Duration{}, counts: map[string]int64{}, heals: heals{},
		dice: rand.New(rand.NewPCG(o.Seed, 9)),
	}
	c.check = checker{c: c, logs: map[string][]entry{}, deleted: map[string]map[string]bool{}}
	rounds, err := c.run(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &Report{
		Seed: o.Seed, Elapsed: c.now(), Rounds: rounds, Counts: c.counts, Latencies: c.latencies,
		Violations: c.violations, Events: c.check.events(), Heals: c.heals, Levels: c.levels, Metrics: map[string]float64{},
	}
	for _, s := range c.nodes {
		r.PeakKiB = max(r.PeakKiB, s.peakKiB)
		r.ServerLogs = append(r.ServerLogs, s.log.Name())
		s.metrics.addTo(r.Metrics)
	}
	return r, err
}

func (c *campaign) run(ctx context.Context) (rounds int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stopAll, err := c.setUp(ctx)
	defer func() { err = errors.Join(err, stopAll()) }()
	if err != nil {
		return 0, err
	}
	live, stopClients := context.WithCancel(ctx)
	for _, s := range c.nodes {
		c.wg.Go(func() { s.watch(live) })
	}
	for _, cl := range c.clients {
		c.wg.Go(func() { cl.run(live) })
	}
	for _, w := range c.watchers {
		c.wg.Go(func() { w.run(live) })
	}
	for _, m := range c.comers {
		c.wg.Go(func() { m.run(live) })
	}
	for _, s := range c.syncers {
		c.wg.Go(func() { s.run(live) })
	}
	for _, g := range c.groups {
		c.wg.Go(func() { g.run(live, c) })
	}
	defer func() { stopClients(); c.wg.Wait() }()
	c.say("%d devices of %d users; rounds of %v for %v", len(c.clients), len(c.users), c.o.Round, c.o.For)
	faults := c.faults()
	if len(faults) == 0 {
		return 0, fmt.Errorf("no fault has a name that contains %q", c.o.Only)
	}
	deck := newDeck(rand.New(rand.NewPCG(c.o.Seed, 1)), faults)
	start := c.now()
	for rounds == 0 || c.now()-start < c.o.For {
		rounds++
		if err := c.round(ctx, rounds, deck); err != nil || c.broken() {
			return rounds, err
		}
	}
	return rounds, c.last(ctx)
}

// now is the time since the campaign began.
func (c *campaign) now() time.Duration { return time.Since(c.began) }

func (c *campaign) say(format string, args ...any) {
	fmt.Fprintf(c.out, "%7.1fs  %s\n", c.now().Seconds(), fmt.Sprintf(format, args...))
}

func (c *campaign) count(what string, n int64) {
	c.mu.Lock()
	c.counts[what] += n
	c.mu.Unlock()
}

func (c *campaign) violate(rule, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.violations) < maxViolations {
		v := Violation{rule, fmt.Sprintf(format, args...), c.now()}
		c.violations = append(c.violations, v)
		fmt.Fprintf(c.out, "%7.1fs  BROKEN  %s: %s\n", v.At.Seconds(), v.Rule, v.Detail)
	}
}

func (c *campaign) broken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.violations) > 0
}

func (c *campaign) setUp(ctx context.Context) (stopAll func() error, err error) {
	var stops []func() error
	stopAll = func() error {
		var errs []error
		for i := len(stops) - 1; i >= 0; i-- {
			errs = append(errs, stops[i]())
		}
		return errors.Join(errs...)
	}
	c.httpc = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	stops = append(stops, func() error { return c.pg.stop(context.WithoutCancel(ctx)) })
	if err := c.pg.start(ctx); err != nil {
		return stopAll, err
	}
	if c.o.Redis != "" {
		c.redis = &redis{c: c, sharded: c.o.Redis == RedisCluster}
		stops = append(stops, func() error { c.redis.stop(); return nil })
		if err := c.redis.start(ctx); err != nil {
			return stopAll, err
		}
	}
	for i := range c.o.Nodes {
		name := ""
		if c.redis != nil {
			name = string(rune('a' + i))
		}
		s, err := newServer(c, name)
		if err != nil {
			return stopAll, err
		}
		c.nodes = append(c.nodes, s)
		stops = append(stops, s.close, func() error { s.stop(syscall.SIGKILL, false); return nil })
		if err := s.start(ctx); err != nil {
			return stopAll, err
		}
	}
	if c.store, err = store.Open(ctx, store.Options{DSN: c.pg.dsn(), MaxConns: 2}); err != nil {
		return stopAll, err
	}
	stops = append(stops, func() error { c.store.Close(); return nil })
	return stopAll, c.populate(ctx)
}

// node draws who is asked.
func (c *campaign) node() *server {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draw(c.dice)
}

// draw draws a node; where there is one, nothing is drawn.
func (c *campaign) draw(random *rand.Rand) *server {
	if len(c.nodes) == 1 {
		return c.nodes[0]
	}
	return c.nodes[random.IntN(len(c.nodes))]
}

// undisturbed is how many devices, the first ones, and users, the last ones, no
// fault of a line strikes: a steady pair that measures, and a listener that writes
// nothing, so that its connection outlives what others' do not. It must receive
// everything without ever reconnecting.
const undisturbed = 3

// populate makes users, their conversations and their devices.
func (c *campaign) populate(ctx context.Context) error {
	random := rand.New(rand.NewPCG(c.o.Seed, 0))
	n := max(6, c.o.Clients*2/5)
	for i := range n {
		u := &user{name: fmt.Sprintf("user-%d", i)}
		if err := c.register(ctx, u); err != nil {
			return err
		}
		c.users = append(c.users, u)
	}
	talkers, steady, listener := c.users[:n-undisturbed], c.users[n-undisturbed:n-1], c.users[n-1]
	var err error
	conv, err := c.converse(ctx, steady[0], map[string]any{"otherUserId": steady[1].id})
	if err != nil {
		return err
	}
	steady[0].steadyConv, steady[1].steadyConv = conv, conv
	c.talk(conv, steady)
	for i, u := range talkers { // a ring of direct conversations
		other := talkers[(i+1)%len(talkers)]
		if conv, err = c.converse(ctx, u, map[string]any{"otherUserId": other.id}); err != nil {
			return err
		}
		c.talk(conv, []*user{u, other})
	}
	for range 3 {
		members := pick(random, talkers, 2+random.IntN(len(talkers)-1))
		if conv, err = c.converse(ctx, members[0], map[string]any{"userIds": ids(members[1:]), "title": "group"}); err != nil {
			return err
		}
		c.talk(conv, members)
	}
	for range 3 {
		if conv, err = c.converse(ctx, talkers[0], map[string]any{"userIds": ids(append(talkers[1:len(talkers):len(talkers)], listener)), "title": "seldom"}); err != nil {
			return err
		}
		c.seldom = append(c.seldom, conv)
	}
	for i := range c.o.Clients {
		u := talkers[i%len(talkers)]
		p := drawProfile(random, i)
		if i < undisturbed {
			u = c.users[n-undisturbed+i]
			p = profile{clientID: p.clientID, version: 5, persistent: true, subQoS: 1, pubQoS: 1, window: 4, keyed: true, pace: 100 * time.Millisecond, writes: 0.5, steady: true, filters: p.filters}
			if u == listener {
				p.version, p.persistent, p.subQoS, p.writes = 4, false, 2, 0
			}
		} else if random.IntN(5) == 0 {
			conv := c.convs[u][random.IntN(len(c.convs[u]))]
			p.filters = []string{"conv/" + conv + "/messages"}
		}
		c.clients = append(c.clients, &client{c: c, user: u, profile: p, index: i, rng: rand.New(rand.NewPCG(c.o.Seed, uint64(1000+i))), holding: map[uint16]bool{}, places: map[string]*place{}, reacted: map[*message]reactionState{}, emoji: emojis[i%len(emojis)]})
	}
	c.makeSyncers()
	if err := c.makeMoving(ctx, random); err != nil {
		return err
	}
	return c.makePresence(ctx)
}

func drawProfile(random *rand.Rand, i int) profile {
	p := profile{
		clientID: fmt.Sprintf("device-%d", i), version: 4 + byte(random.IntN(2)), persistent: random.IntN(4) > 0,
		subQoS: 1 + byte(random.IntN(2)), pubQoS: 1 + byte(random.IntN(2)), window: []int{1, 2, 4, 8, 16}[random.IntN(5)],
		keyed: random.IntN(2) == 0, pace: time.Duration(20+random.IntN(60)) * time.Millisecond, writes: 0.05 + 0.25*random.Float64(),
		filters: []string{[]string{"conv/+/messages", "conv/#"}[random.IntN(2)]},
	}
	if p.version == 5 {
		p.receiveMaximum = []int{0, 1, 2, 7, 20, 100}[random.IntN(6)]
	}
	p.web = random.IntN(4) == 0
	p.keyed = p.keyed || !p.persistent // without session and key, nothing protects a resent message
	return p
}

func pick(random *rand.Rand, from []*user, n int) []*user {
	list := make([]*user, 0, n)
	for _, i := range random.Perm(len(from))[:n] {
		list = append(list, from[i])
	}
	return list
}

func ids(users []*user) []chat.ID {
	list := make([]chat.ID, 0, len(users))
	for _, u := range users {
		list = append(list, u.id)
	}
	return list
}

func (c *campaign) register(ctx context.Context, u *user) error {
	body := map[string]any{"username": u.name, "email": u.name + "@example.org", "password": "correct horse battery"}
	var answer struct{ ID chat.ID }
	if status, err := c.rest(ctx, nil, http.MethodPost, "/api/users", body, &answer); err != nil || status != http.StatusCreated {
		return fmt.Errorf("register %s: status %d: %w", u.name, status, err)
	}
	u.id = answer.ID
	cmd := exec.CommandContext(ctx, c.o.Server, "token", u.name, "--ttl=720h")
	cmd.Env = append(os.Environ(), "DATABASE_URL="+c.nodes[0].databaseURL())
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("make a token for %s: %w", u.name, err)
	}
	u.token = strings.TrimSpace(string(out))
	return nil
}

// converse makes a conversation.
func (c *campaign) converse(ctx context.Context, u *user, body map[string]any) (string, error) {
	var answer struct{ ID string }
	status, err := c.rest(ctx, u, http.MethodPost, "/api/conversations", body, &answer)
	if err != nil || status != http.StatusCreated {
		return "", fmt.Errorf("make a conversation: status %d: %w", status, err)
	}
	return answer.ID, nil
}

// talk lets users write to a conversation from now on.
func (c *campaign) talk(conv string, users []*user) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range users {
		c.convs[u] = append(c.convs[u], conv)
	}
}

// ownerOf returns who has made a group that members leave and come back to; nil for
// all other conversations. The owner stays.
func (c *campaign) ownerOf(conv string) *user {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moving[conv]
}

func (c *campaign) conversationsOf(u *user) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := c.convs[u]
	return list[:len(list):len(list)]
}

func (c *campaign) newMessage(sender *user, conv, name string, keyed bool, size int) *message {
	m := &message{kind: kindMessage, name: name, content: name + " " + strings.Repeat("x", size), conv: conv, sender: sender}
	if keyed {
		m.key = uuid.NewString()
	}
	c.send(m)
	return m
}

// acked notes an acknowledgement; said: it names the place, unless it is of a
// command that found nothing to do.
func (c *campaign) acked(m *message, at stored, said bool) {
	c.mu.Lock()
	known := len(m.acks) > 0
	m.acked = true
	c.counts["acknowledgements"]++
	if m.kind == kindDelete && m.about.gone == 0 && (said || c.moving[m.conv] == nil) {
		m.about.gone = c.now()
	}
	if m.kind == kindRead {
		r := c.reads[absence{m.sender, m.conv}]
		r.acks = append(r.acks, m)
		said = false
	}
	if said && at == (stored{}) && m.kind != kindMessage {
		m.nothing, said = true, false
	}
	if !said {
		c.mu.Unlock()
		return
	}
	if !known {
		m.acks = append(m.acks, at)
	}
	first := m.acks[0]
	c.mu.Unlock()
	switch {
	case at.seq == 0 || at.id == "":
		c.violate("1 acked", "%s: an acknowledgement without id and seq", m.name)
	case at != first:
		c.violate("2 once", "%s was acknowledged as %v and as %v", m.name, first, at)
	}
}

// writeSeldom writes one message to a conversation that is silent else until the
// checkpoint, and makes a group, which stays silent if its making is not answered.
func (c *campaign) writeSeldom(random *rand.Rand, conv string) {
	u := c.users[random.IntN(len(c.users)-undisturbed)]
	c.post(c.newMessage(u, conv, "seldom-"+uuid.NewString(), true, random.IntN(100)))
	c.group(random)
}

// group makes a group in the middle of the run.
func (c *campaign) group(random *rand.Rand) {
	talkers, listener := c.users[:len(c.users)-undisturbed], c.users[len(c.users)-1]
	members := pick(random, talkers, 2+random.IntN(2))
	title := "later " + uuid.NewString()
	c.mu.Lock()
	c.titles[title] = c.now()
	c.mu.Unlock()
	c.posts.Go(func() {
		conv, err := c.converse(context.Background(), members[0], map[string]any{"userIds": append(ids(members[1:]), listener.id), "title": title})
		if err != nil {
			c.count("groups whose making was not answered", 1)
			return
		}
		c.count("groups made in the run", 1)
		c.talk(conv, members)
	})
}

// rest makes a request through the proxy. The error is of the line.
func (c *campaign) rest(ctx context.Context, u *user, method, path string, body, answer any) (status int, err error) {
	var text []byte
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return 0, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.node().http.addr()+path, bytes.NewReader(text))
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if u != nil {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	resp, err := c.httpc.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode/100 == 2 && len(b) > 0 {
		err = json.Unmarshal(b, answer)
	}
	return resp.StatusCode, err
}

// deliveredTo measures the steady pair.
func (c *campaign) deliveredTo(cl *client, cc *clientConn, e *event) {
	if !cl.steady {
		return
	}
	c.mu.Lock()
	m := c.messages[e.Content]
	c.mu.Unlock()
	if m == nil {
		return
	}
	now := c.now()
	if m.via != nil && m.via != cc.node && cc.since < m.first {
		c.noteHeal(m, now)
	}
	if c.down.faulty(m.first-time.Second, now) {
		return
	}
	took := now - m.first
	c.mu.Lock()
	c.latencies = append(c.latencies, took)
	c.mu.Unlock()
	if took > steadyLimit {
		c.violate("6 delays nobody", "an event of the steady pair took %v, while nothing was down", took.Round(time.Millisecond))
	}
}

// steadyLimit is how late an event may come to readers who do nothing wrong, on
// lines that nothing happens to. It is far above what is usual, because the machine
// may be busy with other things.
const steadyLimit = 5 * time.Second

func (c *campaign) stuckChance() int {
	if c.crowd.Load() {
		return 60
	}
	return 8
}

// outages are stretches of time.
type outages struct {
	mu   sync.Mutex
	list [][2]time.Duration // mu guards; an end of 0: not over
}

func (o *outages) begin(at time.Duration) (end func(time.Duration)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := len(o.list)
	o.list = append(o.list, [2]time.Duration{at, 0})
	return func(at time.Duration) {
		o.mu.Lock()
		o.list[i][1] = at
		o.mu.Unlock()
	}
}

// lastEnd returns when the last one that overlaps the time from … to was over, 0 if there
// was none; over is false if one is not.
func (o *outages) lastEnd(from, to time.Duration) (end time.Duration, over bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.list {
		if s[0] <= to && s[1] == 0 {
			return 0, false
		}
		if s[0] <= to && s[1] >= from {
			end = max(end, s[1])
		}
	}
	return end, true
}

// now reports whether one lasts.
func (o *outages) now() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.list, func(s [2]time.Duration) bool { return s[1] == 0 })
}

// around returns the one within which a moment was; end is 0 while it lasts.
func (o *outages) around(at time.Duration) (began, end time.Duration, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.list {
		if s[0] <= at && (s[1] == 0 || s[1] >= at) {
			return s[0], s[1], true
		}
	}
	return 0, 0, false
}

// faulty reports whether any of the time from … to was within one.
func (o *outages) faulty(from, to time.Duration) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.list {
		if s[0] <= to && (s[1] == 0 || s[1] >= from) {
			return true
		}
	}
	return false
}
