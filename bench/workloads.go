package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Session is a server to be measured, and what is known of it. Its methods are called from one goroutine.
type Session struct {
	Addrs     []string // MQTT listeners; connections are divided among them
	API       *API
	People    *People
	Processes Processes
	Database  *Database                       // nil: not known
	Restart   func(ctx context.Context) error // starts the server anew, and sets the fields above; nil: it cannot be
	Progress  func(Progress)                  // is told how far it is; nil: nobody
	Note      func(string)                    // is told what was left out; nil: nobody
	Interval  time.Duration                   // of time series; 0: a second
	Settle    time.Duration                   // how long to wait for what a server puts off, at most; 0: 30 s
}

// Progress is how far a workload is.
type Progress struct {
	Workload string
	Phase    string  // what it does now: "warm-up", or "" while it measures
	Part     float64 // of it that is done, 0 to 1
	Rate     float64 // a second, in the last interval; 0: not known
	Unit     string
	P99      time.Duration // so far; 0: not known
}

// A Plan is a workload that can be run.
type Plan struct {
	Name, Title, Unit string
	Limit             bool
	Chat              *Chat                                       // what it is, if it is that
	Prepare           func(ctx context.Context, s *Session) error // once, before the first run; nil: nothing
	Run               func(ctx context.Context, s *Session, r *Figures) error
}

// Measure runs a plan once and adds the run to w. The error is that of the run, which has it too; a result
// may be there nevertheless.
func (s *Session) Measure(ctx context.Context, p *Plan, w *Workload) error {
	r := &Figures{}
	err := p.Run(ctx, s, r)
	var f *Faults
	switch {
	case errors.As(err, &f):
		r.Faults = f
	case err != nil && ctx.Err() != nil:
		r.Error = interrupted
	case err != nil:
		r.Error = err.Error()
	}
	if err == nil || len(r.Metrics) > 0 || ctx.Err() == nil {
		w.Runs = append(w.Runs, r)
	}
	return err
}

func (s *Session) addr(i int) string { return s.Addrs[i%len(s.Addrs)] }

func (s *Session) note(format string, args ...any) {
	if s.Note != nil {
		s.Note(fmt.Sprintf(format, args...))
	}
}

func (s *Session) progress(p Progress) {
	if s.Progress != nil {
		s.Progress(p)
	}
}

// gauge reads what processes and PostgreSQL use for a run.
type gauge struct {
	s       *Session
	r       *Figures
	name    string
	unit    string
	length  time.Duration // of the measurement, as far as that is planned
	total   *Latency
	usage   ProcessUsage // at the beginning
	last    ProcessUsage // at the last point
	written Written
	load    time.Duration // CPU of this process, at the beginning
	known   bool
	failed  error
	peak    bool // messages came faster than a server may care to index them
	reads   bool // it writes nothing: what PostgreSQL writes meanwhile is of something before
}

func (s *Session) gauge(r *Figures, name, unit string, length time.Duration) *gauge {
	return &gauge{s: s, r: r, name: name, unit: unit, length: length, total: newLatency()}
}

// begin is called when the measurement begins.
func (g *gauge) begin() {
	if g.s.Processes.Known() {
		var err error
		g.usage, err = g.s.Processes.Read()
		g.last, g.known = g.usage, err == nil
		if err != nil {
			g.s.note("CPU and memory are left out: %v", err)
		}
	}
	g.load = ownCPU()
	if g.s.Database != nil {
		g.written, g.failed = g.s.Database.Read(context.Background())
	}
}

// seen is called with each point of the time series.
func (g *gauge) seen(p Point) {
	g.total.h.Merge(p.Latency.h)
	progress := Progress{Workload: g.name, Unit: g.unit, Rate: p.Rate(), P99: g.total.Quantile(0.99)}
	if p.At < 0 {
		progress.Phase = "warm-up"
		g.s.progress(progress)
		return
	}
	point := SeriesPoint{At: p.At.Seconds(), Rate: p.Rate(), P50: ms(p.Latency.Quantile(0.5)), P99: ms(p.Latency.Quantile(0.99))}
	if now, err := g.s.Processes.Read(); err == nil && g.known {
		cores := func(now, before *Usage) (user, system float64) {
			if now == nil || before == nil {
				return 0, 0
			}
			d := now.minus(*before)
			return d.User.Seconds() / p.Length.Seconds(), d.System.Seconds() / p.Length.Seconds()
		}
		point.ServerUser, point.ServerSystem = cores(now.Server, g.last.Server)
		point.PostgresUser, point.PostgresSystem = cores(now.Postgres, g.last.Postgres)
		g.last = now
	}
	if p.Length > g.interval()/2 { // the last one may be too short to say anything
		g.r.Series = append(g.r.Series, point)
	}
	if g.length > 0 {
		progress.Part = min(1, p.At.Seconds()/g.length.Seconds())
	}
	g.s.progress(progress)
}

func (g *gauge) interval() time.Duration {
	if g.s.Interval > 0 {
		return g.s.Interval
	}
	return time.Second
}

// counted tells of progress that is a number of things.
func (g *gauge) counted(phase string, of int) func(int64) {
	return func(n int64) {
		g.s.progress(Progress{Workload: g.name, Phase: phase, Part: float64(n) / float64(max(of, 1)), Unit: g.unit})
	}
}

// end adds what n things have cost by now, and what the server still does for them.
func (g *gauge) end(ctx context.Context, n int64) {
	if n == 0 {
		return
	}
	one := singular(g.unit)
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / float64(n) }
	now, err := g.s.Processes.Read()
	if err == nil && g.known {
		g.addUsage(now, n, one)
	}
	if load := ownCPU() - g.load; load > 0 {
		g.r.add("cpu.load", "CPU per "+one+", the load itself", "µs", per(load), "")
	}
	if g.reads || g.s.Processes.Broker != 0 {
		g.s.settle(ctx, restOfReads)
		return
	}
	var written Written
	wrote := g.s.Database != nil && g.failed == nil
	if wrote {
		var err error
		if written, err = g.s.Database.Read(context.WithoutCancel(ctx)); err != nil {
			g.s.note("disk and write-ahead log are left out: %v", err)
			wrote = false
		}
	}
	if wrote {
		d := written.minus(g.written)
		g.r.add("wal", "write-ahead log per "+one, "B", float64(d.WAL)/float64(n), "less")
		g.r.add("disk", "disk per "+one, "B", float64(d.Size)/float64(n), "less")
		g.r.add("commits", "transactions per "+one, "", float64(d.Commits)/float64(n), "less")
	}
	rest := restOfWrites
	if g.peak {
		rest = restOfPeaks
	}
	g.s.progress(Progress{Workload: g.name, Phase: "until the server is at rest"})
	if !g.s.settle(ctx, rest) {
		if ctx.Err() == nil {
			g.s.note("%s: the server was still busy with it %v later (--settle); what that costs is part of what comes next", g.name, short(g.s.settleTime()))
		}
		return
	}
	if later, err := g.s.Processes.Read(); err == nil && g.known && later.Server != nil {
		sum := later.Server.CPU() - now.Server.CPU()
		if later.Postgres != nil && now.Postgres != nil {
			sum += later.Postgres.CPU() - now.Postgres.CPU()
		}
		g.r.add("later.cpu", "CPU per "+one+", afterwards", "µs", per(sum), "less")
	}
	if later, err := g.s.work(ctx); wrote && err == nil {
		g.r.add("later.wal", "write-ahead log per "+one+", afterwards", "B", float64(later.written-written.WAL)/float64(n), "less")
	}
}

// singular is one of what a plural names.
func singular(unit string) string {
	switch {
	case strings.HasSuffix(unit, "ies"):
		return strings.TrimSuffix(unit, "ies") + "y"
	case strings.HasSuffix(unit, "ches"):
		return strings.TrimSuffix(unit, "es")
	}
	return strings.TrimSuffix(unit, "s")
}

// addUsage adds what processes have used for n things, and the memory that they occupy.
func (g *gauge) addUsage(now ProcessUsage, n int64, one string) {
	server, postgres := g.s.Processes.Memory()
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / float64(n) }
	var sum time.Duration
	for _, p := range []struct {
		name, label string
		now, before *Usage
	}{
		{"server", "server", now.Server, g.usage.Server},
		{"postgres", "PostgreSQL", now.Postgres, g.usage.Postgres},
		{"redis", "Redis", now.Redis, g.usage.Redis},
		{"broker", "broker", now.Broker, g.usage.Broker},
	} {
		if p.now == nil || p.before == nil {
			continue
		}
		d := p.now.minus(*p.before)
		sum += d.CPU()
		g.r.add("cpu."+p.name+".user", "CPU per "+one+", "+p.label+", user", "µs", per(d.User), "less")
		g.r.add("cpu."+p.name+".system", "CPU per "+one+", "+p.label+", system", "µs", per(d.System), "less")
	}
	if sum > 0 {
		g.r.add("per-cpu-second", g.unit+" a second of CPU", "", float64(n)/sum.Seconds(), "more")
	}
	const mib = 1 << 20
	if server > 0 {
		g.r.add("memory.server", "memory, server (RSS)", "MiB", float64(server)/mib, "less")
	}
	if postgres > 0 {
		g.r.add("memory.postgres", "memory, PostgreSQL (PSS)", "MiB", float64(postgres)/mib, "less")
	}
	if now.Broker != nil {
		g.r.add("memory.broker", "memory, broker (RSS)", "MiB", float64(now.Broker.RSS)/mib, "less")
	}
}

// How long server and PostgreSQL are to be at rest. A server may put off what is not urgent, such as indexing for
// search, and rest between two steps of it.
const (
	restOfReads  = 300 * time.Millisecond
	restOfWrites = 2 * time.Second
	restOfPeaks  = 6 * time.Second // after more than peakRate messages a second
	peakRate     = 1000
)

// settle waits until server and PostgreSQL have used less than a tenth of a CPU for so long, and PostgreSQL has
// written next to nothing. It reports whether that has come in Settle.
func (s *Session) settle(ctx context.Context, rest time.Duration) bool {
	const step = 300 * time.Millisecond
	last, _ := s.work(ctx) // what is not known stands still
	quiet := time.Duration(0)
	rest = min(rest, s.settleTime()/2)
	for start := time.Now(); quiet < rest && time.Since(start) < s.settleTime(); {
		select {
		case <-time.After(step):
		case <-ctx.Done():
			return false
		}
		now, _ := s.work(ctx)
		if quiet += step; now.cpu-last.cpu > step/10 || now.written-last.written > 64<<10 {
			quiet = 0
		}
		last = now
	}
	return quiet >= rest
}

func (s *Session) settleTime() time.Duration { return cmp.Or(s.Settle, 30*time.Second) }

// work is what server and PostgreSQL have used and written.
type work struct {
	cpu     time.Duration
	written int64 // bytes of write-ahead log
}

func (s *Session) work(ctx context.Context) (w work, err error) {
	u, err := s.Processes.Read()
	for _, p := range []*Usage{u.Server, u.Postgres} {
		if p != nil {
			w.cpu += p.CPU()
		}
	}
	if s.Database != nil {
		var now Written
		now, err = s.Database.Read(ctx)
		w.written = now.WAL
	}
	return w, err
}

// Chat is messages in direct conversations.
type Chat struct {
	Connections int // two in each conversation, and both write
	Window      int // messages that each has on their way; with a rate, at most
	Rate        int // messages a second, by all together; 0: as fast as the windows let
	Size        int // bytes of text
	Plain       bool
	Warmup      time.Duration
	Duration    time.Duration
}

// Plan returns the workload.
func (c Chat) Plan() *Plan {
	p := &Plan{Name: "chat", Chat: &c, Unit: "messages", Title: fmt.Sprintf("%d connections in %d direct conversations, window %d, %s, %s", c.Connections, c.Connections/2, c.Window, textTitle(c.Size, c.Plain), short(c.Duration))}
	if c.Rate > 0 {
		p.Name = fmt.Sprintf("rate %d", c.Rate)
		p.Title = fmt.Sprintf("%d connections in %d direct conversations, %d messages/s, %s, %s", c.Connections, c.Connections/2, c.Rate, textTitle(c.Size, c.Plain), short(c.Duration))
	}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		rooms, err := s.People.Pairs(ctx, c.Connections/2)
		if err != nil {
			return err
		}
		return c.run(ctx, s, r, p, Options{Rooms: rooms, AddrOf: func(room, member int) string { return s.addr(2*room + member) }})
	}
	return p
}

func textTitle(size int, plain bool) string {
	if plain {
		return fmt.Sprintf("plain texts of %d bytes", size)
	}
	return fmt.Sprintf("texts of %d bytes", size)
}

// short is a duration without zeros at its end.
func short(d time.Duration) string {
	return strings.NewReplacer("m0s", " min", "h0m", "h", "ms", " ms", "s", " s").Replace(d.String())
}

func (c Chat) run(ctx context.Context, s *Session, r *Figures, p *Plan, o Options) error {
	g := s.gauge(r, p.Name, p.Unit, c.Duration)
	o.Window, o.Rate, o.Size, o.Plain, o.Warmup, o.Duration = c.Window, c.Rate, c.Size, c.Plain, c.Warmup, c.Duration
	o.Measuring, o.Seen, o.Interval = g.begin, g.seen, s.Interval
	res, err := Run(ctx, o)
	if res == nil || res.Acked == 0 {
		return err
	}
	r.Faults = &res.Faults
	r.add("rate", "messages", "/s", res.Rate(), better(c.Rate == 0, "more"))
	r.addLatency("", "latency", res.Latencies)
	r.addLatency("ack.", "acknowledgement", res.Acks)
	if res.Late != nil {
		r.add("late.p99", "sent late by the load itself, p99", "ms", ms(res.Late.Quantile(0.99)), "")
	}
	r.setCurve(res.Latencies)
	g.peak = res.Rate() > peakRate
	g.end(ctx, res.Acked)
	return err
}

func better(yes bool, which string) string {
	if yes {
		return which
	}
	return ""
}

// FanOut is messages in one large conversation.
type FanOut struct {
	Members  int // all connected
	Writers  int
	Window   int // messages that each writer has on their way
	Size     int
	Warmup   time.Duration
	Duration time.Duration
}

// Plan returns the workload.
func (f FanOut) Plan() *Plan {
	p := &Plan{Name: "fan-out", Unit: "deliveries", Title: fmt.Sprintf("a group of %d, all connected; %d write, window %d, %s, %s", f.Members, f.Writers, f.Window, textTitle(f.Size, false), short(f.Duration))}
	var room Room
	p.Prepare = func(ctx context.Context, s *Session) (err error) {
		room, err = s.People.Group(ctx, 0, f.Members)
		return err
	}
	p.Run = func(ctx context.Context, s *Session, r *Figures) (err error) {
		if room.Tokens, err = s.People.Tokens(ctx, f.Members); err != nil {
			return err
		}
		room.Writers = f.Writers
		g := s.gauge(r, p.Name, "messages", f.Duration)
		res, err := Run(ctx, Options{
			Rooms: []Room{room}, AddrOf: func(_, member int) string { return s.addr(member) }, Window: f.Window, Size: f.Size, Warmup: f.Warmup, Duration: f.Duration,
			Measuring: g.begin, Seen: g.seen, Interval: s.Interval,
		})
		if res == nil || res.Delivered == 0 {
			return err
		}
		r.Faults = &res.Faults
		r.add("rate", "deliveries", "/s", rate(res.Delivered, res.Elapsed), "more")
		r.add("messages", "messages", "/s", res.Rate(), "more")
		r.addLatency("", "latency", res.Latencies)
		r.addLatency("ack.", "acknowledgement", res.Acks)
		r.setCurve(res.Latencies)
		g.unit, g.peak = p.Unit, res.Rate() > peakRate
		g.end(ctx, res.Delivered)
		return err
	}
	return p
}

// perUser is how many connections a user is given: servers allow 100.
const perUser = 90

// devices returns n devices of as few users as may have so many.
func (s *Session) devices(ctx context.Context, n int) ([]Device, error) {
	users := (n + perUser - 1) / perUser
	tokens, err := s.People.Tokens(ctx, users)
	if err != nil {
		return nil, err
	}
	all := make([]Device, n)
	for i := range all {
		all[i] = Device{tokens[i%users], fmt.Sprintf("bench-idle-%d", i/users)}
	}
	return all, nil
}

// IdleLoad is connections that do nothing.
type IdleLoad struct {
	Connections int
	AtOnce      int // how many are made at once
	Hold        time.Duration
}

// Plan returns the workload.
func (l IdleLoad) Plan() *Plan {
	p := &Plan{Name: "idle", Unit: "connections", Title: fmt.Sprintf("%d connections with a subscription, made %d at once, then idle for %s", l.Connections, l.AtOnce, short(l.Hold))}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		devices, err := s.devices(ctx, l.Connections)
		if err == nil && s.Restart != nil {
			err = s.Restart(ctx) // memory that was used and is free again would be taken first
		}
		if err != nil {
			return err
		}
		g := s.gauge(r, p.Name, p.Unit, 0)
		s.settle(ctx, restOfReads)
		before, postgres := s.Processes.Memory()
		g.begin()
		var connected ProcessUsage
		var since time.Time
		res, disconnect, err := Idle(ctx, IdleOptions{
			AddrOf: s.addr, Devices: devices, Dialing: l.AtOnce, Hold: l.Hold, Seen: g.counted("connecting", l.Connections),
			Connected: func() {
				s.progress(Progress{Workload: p.Name, Phase: "idle", Part: 1, Unit: p.Unit})
				connected, _ = s.Processes.Read()
				since = time.Now()
			},
		})
		defer disconnect()
		if res.Connect.Count() == 0 {
			return err
		}
		n := float64(res.Connect.Count())
		r.Faults = &res.Faults
		r.add("rate", "connections made", "/s", n/res.Elapsed.Seconds(), "more")
		r.addLatency("", "until SUBACK", res.Connect)
		r.setCurve(res.Connect)
		if err != nil || !g.known || since.IsZero() {
			return err
		}
		after, postgresAfter := s.Processes.Memory()
		if before > 0 && after > 0 {
			r.add("memory.connection", "memory per connection, server", "KiB", (float64(after)-float64(before))/1024/n, "less")
		}
		if postgres > 0 && postgresAfter > 0 {
			r.add("memory.postgres", "memory, PostgreSQL (PSS)", "MiB", float64(postgresAfter)/(1<<20), "less")
		}
		now, e := s.Processes.Read()
		if e == nil && now.Server != nil && connected.Server != nil {
			r.add("cpu.connect", "CPU to connect and subscribe, server", "µs", float64((connected.Server.CPU()-g.usage.Server.CPU()).Microseconds())/n, "less")
			r.add("cpu.idle", "CPU while idle, server, of one core", "%", 100*(now.Server.CPU()-connected.Server.CPU()).Seconds()/time.Since(since).Seconds(), "less")
		}
		return nil
	}
	return p
}

// ConnectLoad is connections that are made and ended.
type ConnectLoad struct {
	AtOnce   int
	Warmup   time.Duration
	Duration time.Duration
}

// Plan returns the workload.
func (c ConnectLoad) Plan() *Plan {
	p := &Plan{Name: "connect", Unit: "connections", Title: fmt.Sprintf("CONNECT with a token, then DISCONNECT, %d at once, %s", c.AtOnce, short(c.Duration))}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		if _, err := s.People.Tokens(ctx, c.AtOnce); err != nil {
			return err
		}
		return s.repeat(ctx, r, p, "until CONNACK and closed", RepeatOptions{
			Workers: c.AtOnce, Warmup: c.Warmup, Duration: c.Duration,
			Do: func(ctx context.Context, worker, _ int) error {
				token, err := s.People.Token(ctx, worker)
				if err != nil {
					return err
				}
				return Connect(ctx, s.addr(worker), Device{token, "bench-connect"})
			},
		})
	}
	return p
}

func (s *Session) repeat(ctx context.Context, r *Figures, p *Plan, label string, o RepeatOptions) error {
	g := s.gauge(r, p.Name, p.Unit, o.Duration)
	g.reads = true
	o.Measuring, o.Seen, o.Interval = g.begin, g.seen, s.Interval
	res, err := Repeat(ctx, o)
	if res.Done == 0 {
		return err
	}
	r.add("rate", p.Unit, "/s", res.Rate(), "more")
	r.addLatency("", label, res.Latency)
	r.setCurve(res.Latency)
	g.end(ctx, res.Done)
	return err
}

// fill writes so many messages to each conversation.
func (s *Session) fill(ctx context.Context, name string, rooms []Room, messages, size int) error {
	o := Options{Rooms: rooms, AddrOf: func(room, member int) string { return s.addr(2*room + member) }, Window: 32, Size: size, Messages: messages * len(rooms)}
	acked := int64(0)
	o.Seen = func(p Point) {
		acked += p.Done
		s.progress(Progress{Workload: name, Phase: "writing messages", Part: float64(acked) / float64(o.Messages), Rate: p.Rate(), Unit: "messages"})
	}
	if _, err := Run(ctx, o); err != nil {
		return fmt.Errorf("write the messages to be read: %w", err)
	}
	s.progress(Progress{Workload: name, Phase: "until the server is at rest"})
	s.settle(ctx, restOfPeaks)
	return nil
}

// HistoryLoad is pages of conversations, read over REST.
type HistoryLoad struct {
	Clients  int // each reads a conversation of its own
	Messages int // in each conversation
	Size     int
	Warmup   time.Duration
	Duration time.Duration
}

// Plan returns the workload.
func (h HistoryLoad) Plan() *Plan {
	p := &Plan{Name: "history", Unit: "requests", Title: fmt.Sprintf("%d clients read the newest 50 messages of a conversation of %d, again and again, %s", h.Clients, h.Messages, short(h.Duration))}
	var rooms []Room
	p.Prepare = func(ctx context.Context, s *Session) (err error) {
		if rooms, err = s.People.Pairs(ctx, h.Clients); err != nil {
			return err
		}
		return s.fill(ctx, p.Name, rooms, h.Messages, h.Size)
	}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		return s.repeat(ctx, r, p, "a request", RepeatOptions{
			Workers: h.Clients, Warmup: h.Warmup, Duration: h.Duration,
			Do: func(ctx context.Context, worker, _ int) error {
				token, err := s.People.Token(ctx, 2*worker)
				if err != nil {
					return err
				}
				return s.API.History(ctx, token, rooms[worker].Conversation)
			},
		})
	}
	return p
}

// SearchLoad is searches over REST.
type SearchLoad struct {
	Clients  int // members of the conversation
	Messages int // in the conversation
	Size     int
	Warmup   time.Duration
	Duration time.Duration
}

// Plan returns the workload.
func (l SearchLoad) Plan() *Plan {
	p := &Plan{Name: "search", Unit: "searches", Title: fmt.Sprintf("%d clients search a conversation of %d messages for one word, frequent ones and rare ones, %s", l.Clients, l.Messages, short(l.Duration))}
	words := Words()
	p.Prepare = func(ctx context.Context, s *Session) error {
		room, err := s.People.Group(ctx, 0, max(2, l.Clients))
		if err != nil {
			return err
		}
		room.Tokens = room.Tokens[:min(8, len(room.Tokens))] // they write
		return s.fill(ctx, p.Name, []Room{room}, l.Messages, l.Size)
	}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		random := make([]*rand.Rand, l.Clients)
		for i := range random {
			random[i] = rand.New(rand.NewPCG(5, uint64(i)))
		}
		return s.repeat(ctx, r, p, "a search", RepeatOptions{
			Workers: l.Clients, Warmup: l.Warmup, Duration: l.Duration,
			Do: func(ctx context.Context, worker, _ int) error {
				token, err := s.People.Token(ctx, worker)
				if err != nil {
					return err
				}
				_, err = s.API.Search(ctx, token, words[random[worker].IntN(len(words))])
				return err
			},
		})
	}
	return p
}

// ReconnectLoad is devices that come back at once.
type ReconnectLoad struct {
	Devices int
	Missed  int // messages that each has missed
	Size    int
}

// Plan returns the workload.
func (l ReconnectLoad) Plan() *Plan {
	users := min(max(2, l.Devices), 100)
	if l.Devices > users*perUser {
		users = (l.Devices + perUser - 1) / perUser
	}
	p := &Plan{Name: "reconnect", Unit: "events", Title: fmt.Sprintf("%d devices of %d users come back at once, each has missed %d messages of %d bytes", l.Devices, users, l.Missed, l.Size)}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		room, err := s.People.Group(ctx, 0, users)
		if err != nil {
			return err
		}
		devices := make([]Device, l.Devices)
		for i := range devices {
			devices[i] = Device{room.Tokens[i%users], fmt.Sprintf("bench-back-%d", i/users)}
		}
		s.progress(Progress{Workload: p.Name, Phase: "writing what is missed", Unit: p.Unit})
		g := s.gauge(r, p.Name, p.Unit, 0)
		res, err := Reconnect(ctx, ReconnectOptions{
			AddrOf: s.addr, Devices: devices, Conversation: room.Conversation, Writer: room.Tokens[0], Missed: l.Missed, Size: l.Size, Dialing: 32,
			Returning: func() { s.settle(ctx, restOfWrites); g.begin() }, Seen: g.counted("devices caught up", l.Devices),
		})
		if res == nil || res.CaughtUp.Count() == 0 {
			return err
		}
		n := int64(l.Devices) * int64(l.Missed)
		r.Faults = &res.Faults
		r.add("rate", "events", "/s", rate(n, res.Elapsed), "more")
		r.add("elapsed", "all have everything", "s", res.Elapsed.Seconds(), "less")
		r.add("retries", "connections made again", "", float64(res.Retries), "less")
		r.addLatency("", "until a device has everything", res.CaughtUp)
		r.setCurve(res.CaughtUp)
		g.end(ctx, n)
		return err
	}
	return p
}

// PresenceLoad is users who come online at once.
type PresenceLoad struct {
	Users    int
	Contacts int // of each
}

// presenceTime is how long they have.
const presenceTime = 2 * time.Minute

// Plan returns the workload.
func (l PresenceLoad) Plan() *Plan {
	size := l.Contacts + 1
	groups := max(1, l.Users/size)
	p := &Plan{Name: "presence", Unit: "updates", Title: fmt.Sprintf("%d users come online at once, in groups of %d who all see each other", groups*size, size)}
	p.Prepare = func(ctx context.Context, s *Session) error {
		if err := s.People.Ready(ctx, groups*size); err != nil {
			return err
		}
		for i := range groups {
			if _, err := s.People.Group(ctx, i*size, (i+1)*size); err != nil {
				return err
			}
		}
		return nil
	}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		tokens, err := s.People.Tokens(ctx, groups*size)
		if err != nil {
			return err
		}
		ids := s.People.IDs(groups * size)
		among := make([][]string, len(ids))
		for i := range ids {
			among[i] = ids[i/size*size:][:size]
		}
		s.progress(Progress{Workload: p.Name, Phase: "coming online", Unit: p.Unit})
		g := s.gauge(r, p.Name, p.Unit, 0)
		s.settle(ctx, restOfReads) // also so that whoever has just left is offline
		g.begin()
		limited, cancel := context.WithTimeoutCause(ctx, presenceTime, fmt.Errorf("not everybody was shown as online to everybody within %v", presenceTime))
		defer cancel()
		res, err := Presence(limited, PresenceOptions{AddrOf: s.addr, Tokens: tokens, Among: among, Contacts: l.Contacts, Dialing: 256})
		if err != nil {
			return err
		}
		r.add("rate", "updates", "/s", rate(res.Signals, res.Elapsed), "more")
		r.add("elapsed", "all shown online to all", "s", res.Elapsed.Seconds(), "less")
		r.add("connected", "all have subscribed", "s", res.Connected.Seconds(), "less")
		r.add("signals", "updates received", "", float64(res.Signals), "")
		g.end(ctx, res.Signals)
		return nil
	}
	return p
}

// BrokerLoad is Chat at another broker, which knows no members and no log: what the machine does with the same
// messages if nothing is stored.
func BrokerLoad(name, addr string, pid int, c Chat) *Plan {
	p := c.Plan()
	p.Name, p.Limit, p.Chat = name, true, nil
	if c.Rate > 0 {
		p.Name = fmt.Sprintf("%s %d", name, c.Rate)
	}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		rooms := make([]Room, c.Connections/2)
		for i := range rooms {
			rooms[i] = Room{Conversation: fmt.Sprintf("%08d-0000-7000-8000-000000000000", i), Tokens: make([]string, 2)}
		}
		beside := *s
		beside.Processes, beside.Database = Processes{Broker: pid}, nil
		return c.run(ctx, &beside, r, p, Options{Addr: addr, Rooms: rooms, Exact: true})
	}
	return p
}

// LimitPlan is something that the machine does without a server.
func LimitPlan(name, title, unit, label string, do func(ctx context.Context, s *Session) (*RepeatResult, error)) *Plan {
	p := &Plan{Name: name, Title: title, Unit: unit, Limit: true}
	p.Run = func(ctx context.Context, s *Session, r *Figures) error {
		s.progress(Progress{Workload: name, Phase: "measuring", Unit: unit})
		res, err := do(ctx, s)
		if res == nil || res.Done == 0 {
			return err
		}
		r.add("rate", unit, "/s", res.Rate(), "more")
		r.addLatency("", label, res.Latency)
		r.setCurve(res.Latency)
		return err
	}
	return p
}

// RowsPlan is LimitPlan for StatementLimit: it counts rows, and each statement is a transaction.
func RowsPlan(o StatementOptions) *Plan {
	name := fmt.Sprintf("postgres %d×%d", o.Connections, o.Rows)
	title := fmt.Sprintf("PostgreSQL alone: %d connections, transactions of %d rows with texts of %d bytes, %s", o.Connections, o.Rows, o.Size, short(o.Duration))
	return LimitPlan(name, title, "rows", "a transaction", func(ctx context.Context, s *Session) (*RepeatResult, error) {
		res, err := s.Database.StatementLimit(ctx, o)
		if res != nil {
			res.Done *= int64(o.Rows)
		}
		return res, err
	})
}
