package redis

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/parleymq/parley/backoff"
	"github.com/parleymq/parley/chat"
)

const (
	buckets        = 256              // of users; every renewEvery/buckets one of them is renewed
	entryTTL       = 30 * time.Minute // after which an entry that is not renewed expires
	renewEvery     = 10 * time.Minute // each entry
	batchUsers     = 5000             // entries written in one round trip; fewer while Redis is too slow for so many
	leastUsers     = 50               // but not fewer than this
	maxDirty       = 200_000          // entries beyond which those of disconnected users are left to expire
	maxLocations   = 100              // nodes that Locate returns for one user
	betweenRefills = 30 * time.Second // the least time between two registrations of all users because of a missing entry
)

// op is what is done to the entry of a user; a label of the metrics.
type op string

const (
	register   op = "register"
	renew      op = "renew" // as register, for an entry that should be there
	unregister op = "unregister"
)

// registry knows who is connected here, and which entries in Redis may differ from that.
type registry struct {
	mu        sync.Mutex
	connected [buckets]map[chat.ID]struct{} // mu guards; by the last byte of the id
	due       [buckets]op                   // mu guards; register or renew: the entries of a whole bucket are to be written
	dirty     map[chat.ID]struct{}          // mu guards; users whose entry is to be written or removed

	wake chan struct{} // of one value: there may be work for the loop
}

func (r *registry) init() {
	for i := range r.connected {
		r.connected[i] = map[chat.ID]struct{}{}
	}
	r.dirty = map[chat.ID]struct{}{}
	r.wake = make(chan struct{}, 1)
}

func (r *registry) bucket(user chat.ID) map[chat.ID]struct{} { return r.connected[user[len(user)-1]] }

// Register implements cluster.Link.
func (l *Link) Register(user chat.ID) { l.reg.set(user, true) }

// Unregister implements cluster.Link.
func (l *Link) Unregister(user chat.ID) { l.reg.set(user, false) }

func (r *registry) set(user chat.ID, connected bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, was := r.bucket(user)[user]; was == connected {
		return
	}
	if connected {
		r.bucket(user)[user] = struct{}{}
	} else {
		delete(r.bucket(user), user)
	}
	r.mark(user)
	signal(r.wake)
}

// mark has the entry of a user written or removed; r.mu is held.
func (r *registry) mark(user chat.ID) {
	if _, connected := r.bucket(user)[user]; connected || len(r.dirty) < maxDirty {
		r.dirty[user] = struct{}{}
	}
}

// registerAll has the entries of all users written again.
func (r *registry) registerAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.due {
		r.due[i] = register
	}
	signal(r.wake)
}

// renew has the entries of a bucket renewed.
func (r *registry) renew(bucket int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.due[bucket] == "" {
		r.due[bucket] = renew
	}
}

// entry is what is to be done to the entry of a user.
type entry struct {
	user chat.ID
	op   op
}

// take takes the next entries to write, about most, and appends them to batch.
func (r *registry) take(batch []entry, most int) []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for user := range r.dirty {
		if len(batch) >= most {
			return batch
		}
		delete(r.dirty, user)
		if _, connected := r.bucket(user)[user]; connected {
			batch = append(batch, entry{user, register})
		} else {
			batch = append(batch, entry{user, unregister})
		}
	}
	for i, op := range r.due {
		if op == "" {
			continue
		}
		if len(batch) >= most {
			return batch
		}
		for user := range r.connected[i] {
			if len(batch) < most {
				batch = append(batch, entry{user, op})
			} else {
				r.dirty[user] = struct{}{}
			}
		}
		r.due[i] = ""
	}
	return batch
}

// waiting returns how many users' entries are to be written or removed.
func (r *registry) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(r.dirty)
	for i, op := range r.due {
		if op == register {
			n += len(r.connected[i])
		}
	}
	return n
}

// register writes to the registry who is connected here, until ctx ends.
func (l *Link) register(ctx context.Context) {
	r := &l.reg
	wait := backoff.New(l.o.HeartbeatInterval/32, l.o.HeartbeatInterval)
	most := batchUsers
	tick := time.NewTicker(renewEvery / buckets)
	defer tick.Stop()
	var batch []entry
	var refilled time.Time
	for bucket := 0; ; {
		select {
		case <-r.wake:
		case <-tick.C:
			r.renew(bucket)
			bucket = (bucket + 1) % buckets
		case <-ctx.Done():
			return
		}
		for ctx.Err() == nil {
			c := l.client.Load()
			if c == nil {
				break // heartbeat wakes this loop
			}
			if batch = r.take(batch[:0], most); len(batch) == 0 {
				break
			}
			began := time.Now()
			missing, err := l.write(ctx, c, batch)
			if missing && time.Since(refilled) > betweenRefills {
				refilled = time.Now()
				l.metrics.flushes.WithLabelValues("registry").Inc()
				l.logger.Warn("Redis has lost entries; registering all users again", "redis", l.target.String())
				r.registerAll()
				signal(l.changed)
			}
			if err != nil {
				signal(l.beatNow)
				most = max(most/2, leastUsers)
				wait.Sleep(ctx)
				continue
			}
			if len(batch) >= most {
				backoff.Sleep(ctx, time.Since(began)) // leaves Redis time for others
			}
			wait.Reset()
			most = min(most+most/8, batchUsers) // slowly: a round trip that was too large takes a heartbeat interval
		}
	}
}

// write writes or removes entries; those that failed are marked again. missing reports that
// an entry that was to be renewed was not there.
func (l *Link) write(ctx context.Context, c *client, batch []entry) (missing bool, err error) {
	now := c.now()
	end := redis.Z{Score: float64(now + entryTTL.Milliseconds()), Member: l.o.Node.ID}
	expired := strconv.FormatInt(now, 10)
	pipe := c.Pipeline()
	cmds := make([]*redis.IntCmd, len(batch))
	for i, e := range batch {
		key := l.userKey(e.user)
		if e.op == unregister {
			cmds[i] = pipe.ZRem(ctx, key, l.o.Node.ID)
			continue
		}
		cmds[i] = pipe.ZAdd(ctx, key, end)
		pipe.ZRemRangeByScore(ctx, key, "-inf", expired)
		pipe.Expire(ctx, key, entryTTL)
	}
	limited, cancel := context.WithTimeout(ctx, l.o.HeartbeatInterval)
	defer cancel()
	ran, err := exec(limited, pipe)
	l.reg.mu.Lock()
	defer l.reg.mu.Unlock()
	for i, e := range batch {
		added, err := cmds[i].Result()
		if err != nil || !ran {
			l.reg.mark(e.user)
			l.metrics.registered.WithLabelValues("failed").Inc()
			continue
		}
		missing = missing || e.op == renew && added == 1
		l.metrics.registered.WithLabelValues(string(e.op)).Inc()
	}
	return missing, err
}

// Locate implements cluster.Link. It blocks for a heartbeat interval at most.
func (l *Link) Locate(ctx context.Context, users []chat.ID) ([][]string, error) {
	found := make([][]string, len(users))
	if len(users) == 0 {
		return found, nil
	}
	unavailable := func(err error) ([][]string, error) {
		l.metrics.unlocated.Inc()
		return found, &chat.Error{Code: chat.Unavailable, Op: "redis.Locate", Msg: "where users are connected is not known right now", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, l.o.HeartbeatInterval)
	defer cancel()
	c := l.client.Load()
	if c == nil {
		return unavailable(errors.New("Redis is unavailable"))
	}
	pipe := c.Pipeline()
	cmds := make([]*redis.StringSliceCmd, len(users))
	from := strconv.FormatInt(c.now(), 10)
	for i, user := range users {
		cmds[i] = pipe.ZRangeByScore(ctx, l.userKey(user), &redis.ZRangeBy{Min: from, Max: "+inf", Count: maxLocations})
	}
	if ran, err := exec(ctx, pipe); !ran {
		return unavailable(explain("redis.Locate", err))
	}
	var failed error
	for i, cmd := range cmds {
		ids, err := cmd.Result()
		if err != nil {
			failed = err
			continue
		}
		found[i] = slices.DeleteFunc(ids, func(id string) bool { return !validID(id) })
	}
	l.metrics.located.Add(float64(len(users)))
	if failed != nil {
		return unavailable(explain("redis.Locate", failed))
	}
	return found, nil
}
