package campaign

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/parleymq/parley/chat"
)

// Groups whose members are removed, leave, and are added again, while everybody
// writes to them. The log says when: a device receives what was numbered from its
// user's joining on and before their removal, and nothing else. Devices note what
// they receive of such a group in stretches without holes, which are judged at the
// checkpoint, when the log is known.

const movingGroups = 2

// makeMoving makes those groups. The listener is a member of each, and stays.
func (c *campaign) makeMoving(ctx context.Context, random *rand.Rand) error {
	talkers, listener := c.users[:len(c.users)-undisturbed], c.users[len(c.users)-1]
	for i := range movingGroups {
		owner := talkers[i%len(talkers)]
		conv, err := c.converse(ctx, owner, map[string]any{"userIds": append(ids(talkers), listener.id), "title": "moving"})
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.moving[conv] = owner
		c.mu.Unlock()
		c.groups = append(c.groups, &movingGroup{conv: conv, owner: owner, members: talkers, out: map[*user]func(time.Duration){}, rng: rand.New(rand.NewPCG(random.Uint64(), 0))})
		c.talk(conv, talkers)
	}
	return nil
}

// movingGroup is one of them. It is owned by its goroutine.
type movingGroup struct {
	conv    string
	owner   *user
	members []*user
	out     map[*user]func(time.Duration) // ends the absence of those who are out
	rng     *rand.Rand
}

// run has members go and come until ctx ends.
func (g *movingGroup) run(ctx context.Context, c *campaign) {
	for sleep(ctx, time.Duration(50+g.rng.IntN(700))*time.Millisecond) {
		u := g.members[g.rng.IntN(len(g.members))]
		alone := g.rng.IntN(3) == 0
		if c.quiet.Load() || u == g.owner {
			continue
		}
		done := make(chan struct{})
		c.posts.Go(func() { // a checkpoint waits for it
			defer close(done)
			if g.out[u] == nil {
				g.remove(ctx, c, u, alone)
			} else {
				g.add(ctx, c, u)
			}
		})
		<-done
	}
}

// remove removes somebody, or has them leave. From the request on they may be out.
func (g *movingGroup) remove(ctx context.Context, c *campaign, u *user, alone bool) {
	key := absence{u, g.conv}
	c.mu.Lock()
	if c.absences[key] == nil {
		c.absences[key] = &outages{}
	}
	o := c.absences[key]
	c.mu.Unlock()
	g.out[u] = o.begin(c.now())
	actor := g.owner
	if alone {
		actor = u
	}
	what := "members removed"
	if alone {
		what = "members who left"
	}
	g.insist(ctx, c, what, actor, http.MethodDelete, "/api/conversations/"+g.conv+"/participants/"+u.id.String(), nil, alone)
}

func (g *movingGroup) add(ctx context.Context, c *campaign, u *user) {
	if g.insist(ctx, c, "members added again", g.owner, http.MethodPost, "/api/conversations/"+g.conv+"/participants", map[string]any{"userIds": []chat.ID{u.id}}, false) {
		g.out[u](c.now())
		g.out[u] = nil
	}
}

// insist asks until it is answered. What somebody does who has left by the first
// request is not found by the second.
func (g *movingGroup) insist(ctx context.Context, c *campaign, what string, actor *user, method, path string, body any, alone bool) bool {
	for try := 0; ; try++ {
		var answer struct{}
		status, err := c.rest(ctx, actor, method, path, body, &answer)
		switch {
		case err == nil && status/100 == 2, err == nil && alone && try > 0 && status == http.StatusNotFound:
			c.count(what, 1)
			return true
		case err == nil && status != http.StatusServiceUnavailable:
			c.violate("refusal", "%s %s answered %d", method, path, status)
			return false
		}
		c.count(what+": without answer", 1)
		if !sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
}

// stay is a stretch of a log that somebody may see: from a joining to what came
// before a removal.
type stay struct{ from, end int64 } // end: exclusive; 0: they are still there

// staysOf reads a log: when was the user in it?
func staysOf(log []entry, u *user) []stay {
	var list []stay
	for i := range log {
		e := &log[i]
		if e.event != chat.EventConversation || !e.concerns(u) {
			continue
		}
		seq := int64(i + 1)
		in := len(list) > 0 && list[len(list)-1].end == 0
		switch {
		case (e.op == "created" || e.op == "joined") && !in:
			list = append(list, stay{from: seq})
		case e.op == "left" && in:
			list[len(list)-1].end = seq
		}
	}
	return list
}

// concerns reports whether a change of members is about the user.
func (e *entry) concerns(u *user) bool {
	for _, id := range e.users {
		if id == u.id {
			return true
		}
	}
	return e.op == "created" && e.sender == u.id.String()
}

// within returns the stay that a place lies in.
func within(list []stay, seq int64) (stay, bool) {
	for _, s := range list {
		if seq >= s.from && (s.end == 0 || seq < s.end) {
			return s, true
		}
	}
	return stay{}, false
}

// stretch is what a session has received of a log without a hole, ends included.
type stretch struct{ first, last int64 }

// note adds a place to the stretches of a moving group.
func (p *place) note(seq int64) {
	for i := range p.stretches {
		if s := &p.stretches[i]; seq >= s.first && seq <= s.last {
			return
		}
	}
	if n := len(p.stretches); n > 0 && seq == p.stretches[n-1].last+1 {
		p.stretches[n-1].last = seq
		return
	}
	p.stretches = append(p.stretches, stretch{seq, seq})
}

// judgeStretches asks whether a session has received what its user may see.
func (ch *checker) judgeStretches(b *begun) {
	stays := staysOf(ch.logs[b.conv], b.user)
	for i, s := range b.stretches {
		in, ok := within(stays, s.first)
		switch {
		case !ok || in.end != 0 && s.last >= in.end:
			ch.c.violate("8 only members", "%s: received %d to %d of %s, where its user was a member in %v", b.clientID, s.first, s.last, b.conv, stays)
		case i > 0 && s.first != in.from:
			ch.c.violate("3 order", "%s: a gap: event %d of %s after %d, and its user was a member in %v", b.clientID, s.first, b.conv, b.stretches[i-1].last, stays)
		}
	}
}

// judgeHistory asks by REST what members and former members may read of the groups.
func (ch *checker) judgeHistory(ctx context.Context) error {
	c := ch.c
	for _, g := range c.groups {
		for _, u := range g.members {
			var page struct{ Data []struct{ Seq int64 } }
			status, err := c.askRest(ctx, u, "/api/messages?after=0&limit=1&conversationId="+g.conv, &page)
			if err != nil {
				return err
			}
			stays := staysOf(ch.logs[g.conv], u)
			in := len(stays) > 0 && stays[len(stays)-1].end == 0
			switch {
			case in && status != http.StatusOK, !in && status != http.StatusNotFound:
				c.violate("8 only members", "%s reads %s: %d, and was a member in %v", u.name, g.conv, status, stays)
			case in && len(page.Data) > 0 && page.Data[0].Seq < stays[len(stays)-1].from:
				c.violate("8 only members", "%s reads event %d of %s, and was a member in %v", u.name, page.Data[0].Seq, g.conv, stays)
			}
		}
	}
	return nil
}

// askRest asks while nothing is broken: a few times, because the server may still be
// finding its database again.
func (c *campaign) askRest(ctx context.Context, u *user, path string, answer any) (status int, err error) {
	for range 50 {
		if status, err = c.rest(ctx, u, http.MethodGet, path, nil, answer); err == nil && status != http.StatusServiceUnavailable {
			return status, nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return 0, context.Cause(ctx)
		}
	}
	return status, fmt.Errorf("GET %s: status %d: %w", path, status, err)
}
