package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Cluster is a Redis Cluster of masters, each with a third (or so) of the slots, and as
// many replicas.
type Cluster struct {
	Masters, Replicas []*Server // a replica follows the master of the same place
}

// StartCluster runs a Cluster until the test ends: n masters, with or without a replica
// for each. It waits until every member calls it whole. A master that does not answer is
// failed over after about two seconds.
func StartCluster(t testing.TB, n int, replicas bool, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{}
	member := func() *Server {
		s := newServer(t, "redis-server", nil)
		s.args = append([]string{
			"--save", "", "--appendonly", "no", "--port", strconv.Itoa(s.Port), "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(freePort(t)),
			"--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
		}, args...)
		s.start()
		return s
	}
	for range n {
		c.Masters = append(c.Masters, member())
		if replicas {
			c.Replicas = append(c.Replicas, member())
		}
	}
	for i, s := range c.Masters {
		s.Do("CLUSTER", "ADDSLOTSRANGE", 16384*i/n, 16384*(i+1)/n-1)
		s.Do("CLUSTER", "SET-CONFIG-EPOCH", i+1)
	}
	all := slices.Concat(c.Masters, c.Replicas)
	for _, s := range all[1:] {
		c.Masters[0].Do("CLUSTER", "MEET", "127.0.0.1", s.Port, s.busPort())
	}
	c.await(t, "every member knows every other", func(s *Server) bool {
		return strings.Count(s.Do("CLUSTER", "NODES").(string), "\n") == len(all)
	}, all)
	for i, s := range c.Replicas {
		id := c.Masters[i].Do("CLUSTER", "MYID")
		Await(t, "replica", func() bool { _, err := s.Try("CLUSTER", "REPLICATE", id); return err == nil })
	}
	c.AwaitWhole(t)
	return c
}

// AwaitWhole waits until every member that runs says that the Cluster is whole, and
// every replica follows its master.
func (c *Cluster) AwaitWhole(t testing.TB) {
	t.Helper()
	c.await(t, "the Cluster is whole", func(s *Server) bool {
		info, err := s.Try("CLUSTER", "INFO")
		text, _ := info.(string)
		repl, err2 := s.Try("INFO", "replication")
		follows, _ := repl.(string)
		return err == nil && err2 == nil && strings.Contains(text, "cluster_state:ok") &&
			(strings.Contains(follows, "role:master") || strings.Contains(follows, "master_link_status:up"))
	}, slices.Concat(c.Masters, c.Replicas))
}

func (c *Cluster) await(t testing.TB, what string, ok func(*Server) bool, members []*Server) {
	t.Helper()
	for _, s := range members {
		if s.running() {
			Await(t, what, func() bool { return ok(s) })
		}
	}
}

// URL names all masters.
func (c *Cluster) URL() string {
	addrs := make([]string, len(c.Masters))
	for i, s := range c.Masters {
		addrs[i] = s.Addr()
	}
	return "redis://" + strings.Join(addrs, ",")
}

// Slot is the slot of a key or channel.
func (c *Cluster) Slot(key string) int {
	return int(c.Masters[0].Do("CLUSTER", "KEYSLOT", key).(int64))
}

// Owner is the place, in Masters, of the one that has a slot. It fails the test when
// none of them has it.
func (c *Cluster) Owner(t testing.TB, slot int) int {
	t.Helper()
	for i, s := range c.Masters {
		if !s.running() {
			continue
		}
		for line := range strings.Lines(s.Do("CLUSTER", "NODES").(string)) {
			f := strings.Fields(line)
			if !strings.Contains(f[2], "myself") || !strings.Contains(f[2], "master") {
				continue
			}
			for _, r := range f[8:] {
				from, to, ok := strings.Cut(r, "-")
				if !ok {
					to = from
				}
				a, err1 := strconv.Atoi(from)
				b, err2 := strconv.Atoi(to)
				if err1 == nil && err2 == nil && a <= slot && slot <= b {
					return i
				}
			}
		}
	}
	t.Fatalf("slot %d: none of the masters has it", slot)
	return -1
}

// MoveSlot moves a slot with all its keys to the master of that place.
func (c *Cluster) MoveSlot(t testing.TB, slot, to int) {
	t.Helper()
	from := c.Masters[c.Owner(t, slot)]
	dest := c.Masters[to]
	fromID, toID := from.Do("CLUSTER", "MYID"), dest.Do("CLUSTER", "MYID")
	dest.Do("CLUSTER", "SETSLOT", slot, "IMPORTING", fromID)
	from.Do("CLUSTER", "SETSLOT", slot, "MIGRATING", toID)
	for {
		keys := from.Do("CLUSTER", "GETKEYSINSLOT", slot, 100).([]any)
		if len(keys) == 0 {
			break
		}
		from.Do(append([]any{"MIGRATE", "127.0.0.1", dest.Port, "", 0, 5000, "KEYS"}, keys...)...)
	}
	for _, s := range append([]*Server{dest, from}, c.Masters...) {
		s.Do("CLUSTER", "SETSLOT", slot, "NODE", toID)
	}
}

func (s *Server) running() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil
}

func (s *Server) busPort() int {
	for i, a := range s.args {
		if a == "--cluster-port" {
			n, _ := strconv.Atoi(s.args[i+1])
			return n
		}
	}
	panic(fmt.Sprintf("no cluster-port in %v", s.args))
}
