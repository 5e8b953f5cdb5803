package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/parleymq/parley/bench"
)

// benchCmd measures a server. Each workload is a command of its own with its own flags; without one, a short
// selection runs. What all have in common are the flags here.
type benchCmd struct {
	URL         string   `name:"url" placeholder:"URL" group:"server" help:"A running server's REST API, such as http://localhost:8080. Users and conversations are made there, and stay: their names begin with bench-. Default: a server is started for this, with a private PostgreSQL, and removed."`
	MQTT        []string `name:"mqtt" placeholder:"ADDR,…" group:"server" help:"Its MQTT listeners, such as mqtt://localhost:1883 or mqtts://…; connections are divided among them. Default: the host of --url, port 1883, or 8883 (TLS) if that is https."`
	Users       string   `name:"users" placeholder:"FILE" type:"path" group:"server" help:"Accounts to use, one a line: name:password. Those that are signed up for this are added, so that the next run needs no new ones. Needed where signing up is not possible."`
	Yes         bool     `name:"yes" short:"y" group:"server" help:"Do not ask before making load on another machine."`
	Database    string   `name:"database" placeholder:"URL" group:"server" help:"With --url: its PostgreSQL, to read what it writes. Default: DATABASE_URL."`
	ServerPID   int      `name:"server-pid" placeholder:"PID" group:"server" help:"With --url: its process on this machine, to read CPU and memory."`
	PostgresPID int      `name:"postgres-pid" placeholder:"PID" group:"server" help:"Its PostgreSQL's first process. Default: the child of --server-pid."`
	RedisPID    int      `name:"redis-pid" placeholder:"PID" group:"server" help:"Its Redis."`
	Binary      string   `name:"binary" placeholder:"FILE" type:"existingfile" group:"server" help:"Without --url: another parley to start, to compare two versions."`
	ServeArgs   string   `name:"serve-args" placeholder:"ARGS" group:"server" help:"Without --url: further arguments of parley serve, separated by spaces."`
	Dir         string   `name:"dir" placeholder:"DIR" type:"existingdir" group:"server" help:"Without --url: where the server's data is while it runs, since the disk matters. Default: the user's cache directory."`
	PostgresBin string   `name:"postgres-bin" env:"PARLEY_POSTGRES_BIN" placeholder:"DIR" group:"server" help:"Without --url: folder with the programs for the private PostgreSQL. Default: the newest installed version."`

	Duration time.Duration `name:"duration" short:"d" default:"8s" group:"measuring" help:"How long each workload is measured; up to 10m."`
	Warmup   time.Duration `name:"warmup" default:"2s" group:"measuring" help:"How long it runs before."`
	Settle   time.Duration `name:"settle" default:"30s" group:"measuring" help:"How long to wait after a workload, at most, for what the server has put off, such as indexing for search; that is measured, too."`
	Repeat   int           `name:"repeat" default:"1" group:"measuring" help:"Run all workloads so many times in turn; figures are then medians, with their spread."`
	Limits   bool          `name:"limits" group:"measuring" help:"Measure what the machine can do, too: PostgreSQL alone (in a schema parley_bench, which is removed), the disk, the loopback interface, and mosquitto with the messages of chat and rate, if it is installed."`

	JSON string `name:"json" placeholder:"FILE" type:"path" group:"output" help:"Write all figures to a file, for bench compare."`
	HTML string `name:"html" placeholder:"FILE" type:"path" group:"output" help:"Write a page with charts; it needs nothing beside it."`

	Short     benchShortCmd     `cmd:"" default:"withargs" help:"A short selection of the following; the default."`
	Chat      benchChatCmd      `cmd:"" help:"Messages in direct conversations, as fast as the server acknowledges them."`
	Rate      benchRateCmd      `cmd:"" help:"The same at a given rate; latency counts from when a message was due."`
	FanOut    benchFanOutCmd    `cmd:"" name:"fan-out" help:"Messages in one large group, delivered to all members."`
	Idle      benchIdleCmd      `cmd:"" help:"Connections that do nothing: what each costs."`
	Connect   benchConnectCmd   `cmd:"" help:"Connections a second."`
	History   benchHistoryCmd   `cmd:"" help:"Newest pages of conversations, over REST."`
	Search    benchSearchCmd    `cmd:"" help:"Searches, over REST."`
	Reconnect benchReconnectCmd `cmd:"" help:"Devices that come back at once and have missed messages."`
	Presence  benchPresenceCmd  `cmd:"" help:"Users who come online at once and see each other."`
	Compare   benchCompareCmd   `cmd:"" help:"Compare two files of --json."`
}

// Flags that several workloads have.
type (
	messageFlags struct {
		Size  int  `name:"size" default:"200" help:"Bytes of text in a message."`
		Plain bool `name:"plain" help:"Publish the text alone, without clientMsgId."`
	}
	chatFlags struct {
		Connections int `name:"connections" short:"c" default:"100" help:"Connections, two in each conversation."`
		messageFlags
	}
)

type benchShortCmd struct {
	Only []string `name:"only" placeholder:"NAME,…" help:"Only these of: idle, connect, rate, presence, history, search, reconnect, fan-out, chat; in that order."`
}

type benchChatCmd struct {
	chatFlags
	Window int `name:"window" short:"w" default:"16" help:"Messages that each connection has on their way; 1: it waits for each acknowledgement."`
}

type benchRateCmd struct {
	chatFlags
	Rates []int `name:"rates" short:"r" placeholder:"N,…" default:"200" help:"Messages a second, by all together; several are run one after the other."`
}

type benchFanOutCmd struct {
	Members int `name:"members" default:"100" help:"Members of the group, all connected."`
	Writers int `name:"writers" default:"1" help:"How many of them write."`
	Window  int `name:"window" short:"w" default:"4" help:"Messages that each writer has on their way."`
	messageFlags
}

type benchIdleCmd struct {
	Connections int           `name:"connections" short:"c" default:"1000" help:"Connections."`
	AtOnce      int           `name:"at-once" default:"64" help:"How many are made at once."`
	Hold        time.Duration `name:"hold" default:"5s" help:"How long they are idle; up to 8m."`
}

type benchConnectCmd struct {
	AtOnce int `name:"at-once" default:"16" help:"Connections made at once."`
}

type benchHistoryCmd struct {
	Clients  int `name:"clients" default:"8" help:"Clients, each with a conversation of its own."`
	Messages int `name:"messages" default:"200" help:"Messages in each conversation."`
}

type benchSearchCmd struct {
	Clients  int `name:"clients" default:"4" help:"Clients."`
	Messages int `name:"messages" default:"5000" help:"Messages in the conversation."`
}

type benchReconnectCmd struct {
	Devices int `name:"devices" default:"500" help:"Devices."`
	Missed  int `name:"missed" default:"100" help:"Messages that each has missed."`
}

type benchPresenceCmd struct {
	Users    int `name:"online" default:"100" help:"Users."`
	Contacts int `name:"contacts" default:"49" help:"Contacts of each, up to 499."`
}

type benchCompareCmd struct {
	A string `arg:"" name:"a.json" type:"existingfile" help:"The first file: what was before."`
	B string `arg:"" name:"b.json" type:"existingfile" help:"The second: what is now."`
}

// between refuses a number that is out of its range.
func between[T int | time.Duration](flag string, n, least, most T) error {
	if n < least || n > most {
		return fmt.Errorf("--%s: %v is not %v to %v", flag, n, least, most)
	}
	return nil
}

// Limits of the flags. What a server allows may be less.
const (
	maxBenchConnections = 100_000
	maxBenchWindow      = 256 // Receive Maximum
	maxBenchSize        = 16 << 10
	maxBenchRate        = 1_000_000
)

// checkFiles refuses more connections than this process, or a server that it starts, may have open.
func checkFiles(flag string, n int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	const others = 300
	if limit := int(min(l.Cur, 1<<30)); n > limit-others {
		return fmt.Errorf("--%s: %d are more than %d, of the %d files that a process may have open here: raise the limit (ulimit -n)", flag, n, max(0, limit-others), limit)
	}
	return nil
}

func (f messageFlags) check() error {
	return between("size", f.Size, bench.MarkLen+1, maxBenchSize)
}

func (f chatFlags) check() error {
	odd := error(nil)
	if f.Connections%2 != 0 {
		odd = fmt.Errorf("--connections: %d is odd; there are two in each conversation", f.Connections)
	}
	return errors.Join(between("connections", f.Connections, 2, maxBenchConnections), checkFiles("connections", f.Connections), odd, f.messageFlags.check())
}

func (c *benchCmd) chat(f chatFlags, window, rate int) *bench.Plan {
	return bench.Chat{Connections: f.Connections, Window: window, Rate: rate, Size: f.Size, Plain: f.Plain, Warmup: c.Warmup, Duration: c.Duration}.Plan()
}

// Run implements parley bench and parley bench short.
func (c *benchShortCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	b := &root.Bench
	message := messageFlags{Size: 200}
	f := chatFlags{100, message}
	all := []*bench.Plan{ // first what leaves the server nothing to do afterwards
		bench.IdleLoad{Connections: 1000, AtOnce: 64, Hold: min(b.Duration, 5*time.Second)}.Plan(),
		bench.ConnectLoad{AtOnce: 16, Warmup: b.Warmup, Duration: b.Duration}.Plan(),
		b.chat(f, maxBenchWindow, 200),
		bench.PresenceLoad{Users: 100, Contacts: 49}.Plan(),
		bench.HistoryLoad{Clients: 8, Messages: 200, Size: 200, Warmup: b.Warmup, Duration: b.Duration}.Plan(),
		bench.SearchLoad{Clients: 4, Messages: 5000, Size: 200, Warmup: b.Warmup, Duration: b.Duration}.Plan(),
		bench.ReconnectLoad{Devices: 500, Missed: 100, Size: 200}.Plan(),
		bench.FanOut{Members: 100, Writers: 1, Window: 4, Size: 200, Warmup: b.Warmup, Duration: b.Duration}.Plan(),
		b.chat(f, 16, 0),
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i], _, _ = strings.Cut(p.Name, " ")
	}
	for _, only := range c.Only {
		if !slices.Contains(names, only) {
			return fmt.Errorf("--only: there is no %q; there are %s", only, strings.Join(names, ", "))
		}
	}
	var plans []*bench.Plan
	for i, p := range all {
		if len(c.Only) == 0 || slices.Contains(c.Only, names[i]) {
			plans = append(plans, p)
		}
	}
	return b.measure(ctx, tty, plans...)
}

// Run implements parley bench chat.
func (c *benchChatCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := errors.Join(c.check(), between("window", c.Window, 1, maxBenchWindow)); err != nil {
		return err
	}
	return root.Bench.measure(ctx, tty, root.Bench.chat(c.chatFlags, c.Window, 0))
}

// Run implements parley bench rate.
func (c *benchRateCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	err := c.check()
	var plans []*bench.Plan
	for _, n := range c.Rates {
		err = errors.Join(err, between("rates", n, 1, maxBenchRate))
		plans = append(plans, root.Bench.chat(c.chatFlags, maxBenchWindow, n))
	}
	if err != nil {
		return err
	}
	return root.Bench.measure(ctx, tty, plans...)
}

// Run implements parley bench fan-out.
func (c *benchFanOutCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := errors.Join(c.check(), between("members", c.Members, 2, 10_000), checkFiles("members", c.Members), between("writers", c.Writers, 1, c.Members), between("window", c.Window, 1, maxBenchWindow)); err != nil {
		return err
	}
	b := &root.Bench
	return b.measure(ctx, tty, bench.FanOut{Members: c.Members, Writers: c.Writers, Window: c.Window, Size: c.Size, Warmup: b.Warmup, Duration: b.Duration}.Plan())
}

// Run implements parley bench idle.
func (c *benchIdleCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := errors.Join(between("connections", c.Connections, 1, maxBenchConnections), checkFiles("connections", c.Connections), between("at-once", c.AtOnce, 1, 10_000), between("hold", c.Hold, 0, 8*time.Minute)); err != nil {
		return err
	}
	return root.Bench.measure(ctx, tty, bench.IdleLoad{Connections: c.Connections, AtOnce: c.AtOnce, Hold: c.Hold}.Plan())
}

// Run implements parley bench connect.
func (c *benchConnectCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := between("at-once", c.AtOnce, 1, 10_000); err != nil {
		return err
	}
	b := &root.Bench
	return b.measure(ctx, tty, bench.ConnectLoad{AtOnce: c.AtOnce, Warmup: b.Warmup, Duration: b.Duration}.Plan())
}

// Run implements parley bench history.
func (c *benchHistoryCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := errors.Join(between("clients", c.Clients, 1, 1000), between("messages", c.Messages, 1, 1_000_000)); err != nil {
		return err
	}
	b := &root.Bench
	return b.measure(ctx, tty, bench.HistoryLoad{Clients: c.Clients, Messages: c.Messages, Size: 200, Warmup: b.Warmup, Duration: b.Duration}.Plan())
}

// Run implements parley bench search.
func (c *benchSearchCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := errors.Join(between("clients", c.Clients, 1, 1000), between("messages", c.Messages, 1, 10_000_000)); err != nil {
		return err
	}
	b := &root.Bench
	return b.measure(ctx, tty, bench.SearchLoad{Clients: c.Clients, Messages: c.Messages, Size: 200, Warmup: b.Warmup, Duration: b.Duration}.Plan())
}

// Run implements parley bench reconnect.
func (c *benchReconnectCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := errors.Join(between("devices", c.Devices, 1, maxBenchConnections), checkFiles("devices", c.Devices), between("missed", c.Missed, 1, 1_000_000)); err != nil {
		return err
	}
	return root.Bench.measure(ctx, tty, bench.ReconnectLoad{Devices: c.Devices, Missed: c.Missed, Size: 200}.Plan())
}

// Run implements parley bench presence.
func (c *benchPresenceCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := errors.Join(between("contacts", c.Contacts, 1, 499), between("online", c.Users, c.Contacts+1, maxBenchConnections), checkFiles("online", c.Users)); err != nil {
		return err
	}
	return root.Bench.measure(ctx, tty, bench.PresenceLoad{Users: c.Users, Contacts: c.Contacts}.Plan())
}

// Run implements parley bench compare.
func (c *benchCompareCmd) Run(tty terminal) error {
	var reports [2]*bench.Report
	for i, name := range []string{c.A, c.B} {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		reports[i], err = bench.ReadReport(f)
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	printer(tty.Out).Compare(reports[0], reports[1], filepath.Base(c.A), filepath.Base(c.B))
	return nil
}

func printer(w io.Writer) bench.Printer {
	return bench.Printer{W: w, Color: isTerminal(w) && os.Getenv("NO_COLOR") == ""}
}

// check refuses what contradicts itself, before anything is started.
func (c *benchCmd) check() error {
	faults := []error{
		between("duration", c.Duration, 100*time.Millisecond, 10*time.Minute), between("warmup", c.Warmup, 0, time.Minute), between("settle", c.Settle, time.Second, time.Hour), between("repeat", c.Repeat, 1, 100),
	}
	only := func(given bool, flag, with string) {
		if given {
			faults = append(faults, fmt.Errorf("--%s is for %s --url", flag, with))
		}
	}
	if c.URL == "" {
		only(c.MQTT != nil, "mqtt", "use with")
		only(c.Database != "", "database", "use with")
		only(c.ServerPID != 0, "server-pid", "use with")
		only(c.PostgresPID != 0, "postgres-pid", "use with")
		only(c.RedisPID != 0, "redis-pid", "use with")
		only(c.Users != "", "users", "use with")
	} else {
		only(c.Binary != "", "binary", "use without")
		only(c.ServeArgs != "", "serve-args", "use without")
		only(c.Dir != "", "dir", "use without")
	}
	return errors.Join(faults...)
}

// measure runs plans against the server that the flags name, and shows and writes what was measured.
func (c *benchCmd) measure(ctx context.Context, tty terminal, plans ...*bench.Plan) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	live := newLiveLine(tty.Err)
	defer live.clear()
	report := &bench.Report{Version: version(), Began: time.Now(), Machine: bench.ThisMachine()}
	note := func(text string) {
		if !slices.Contains(report.Notes, text) {
			report.Notes = append(report.Notes, text)
		}
	}
	s := &bench.Session{Progress: live.progress, Note: note, Interval: max(c.Duration/60, 250*time.Millisecond), Settle: c.Settle}
	live.say("starting")
	closeTarget, err := c.target(ctx, tty, s, report, live)
	if err != nil {
		if ctx.Err() != nil {
			return errInterrupted
		}
		return err
	}
	defer func() { live.clear(); err = errors.Join(err, closeTarget()) }()
	if c.Limits {
		limits, stop := c.limits(s, plans, note)
		defer stop()
		plans = append(limits, plans...) // first: in a server that has nothing put off
	}
	for _, p := range plans {
		report.Workloads = append(report.Workloads, &bench.Workload{Name: p.Name, Title: p.Title, Unit: p.Unit, Limit: p.Limit})
	}
	prepared := make([]error, len(plans))
	for run := range c.Repeat {
		for i, p := range plans {
			if ctx.Err() != nil {
				break
			}
			live.begin(p.Name, run, c.Repeat)
			if run == 0 && p.Prepare != nil {
				prepared[i] = p.Prepare(ctx, s)
			}
			if prepared[i] != nil {
				if ctx.Err() == nil && run == 0 {
					report.Workloads[i].Runs = append(report.Workloads[i].Runs, &bench.Figures{Error: prepared[i].Error()})
				}
				continue
			}
			_ = s.Measure(ctx, p, report.Workloads[i]) // the report has it
		}
	}
	live.clear()
	report.Interrupted = ctx.Err() != nil
	report.Workloads = slices.DeleteFunc(report.Workloads, func(w *bench.Workload) bool { return len(w.Runs) == 0 })
	printer(tty.Out).Report(report)
	if !report.Server.Own {
		fmt.Fprintf(tty.Out, "\n %s has users and conversations of this run: their names begin with bench-, and \"parley bench\".\n", report.Server.URL)
	}
	err = errors.Join(write(c.JSON, report.Write), write(c.HTML, report.WritePage))
	failures := report.Failures()
	switch {
	case report.Interrupted:
		err = errors.Join(err, errInterrupted)
	case len(failures) > 0:
		err = errors.Join(err, fmt.Errorf("%d of the runs failed, see above", len(failures)))
	}
	return err
}

var errInterrupted = errors.New("interrupted")

// write writes a file, unless it has no name.
func write(name string, do func(io.Writer) error) (err error) {
	if name == "" {
		return nil
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	b := bufio.NewWriter(f)
	err = errors.Join(do(b), b.Flush(), f.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// target finds or starts the server.
func (c *benchCmd) target(ctx context.Context, tty terminal, s *bench.Session, r *bench.Report, live *liveLine) (_ func() error, err error) {
	prefix, err := benchPrefix()
	if err != nil {
		return nil, err
	}
	var closers []func() error
	closing := func() (err error) {
		for _, f := range slices.Backward(closers) {
			err = errors.Join(err, f())
		}
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closing())
		}
	}()
	var accounts []bench.Account
	if c.URL == "" {
		own, err := c.startServer(ctx)
		if err != nil {
			return nil, err
		}
		closers = append(closers, own.remove)
		own.use(s)
		r.Server.Own = true
		s.Restart = func(ctx context.Context) error {
			if err := own.restart(ctx); err != nil {
				return err
			}
			s.API.Close()
			s.Database.Close()
			own.use(s)
			var err error
			s.Database, err = bench.OpenDatabase(ctx, own.dsn)
			return err
		}
		if s.Database, err = bench.OpenDatabase(ctx, own.dsn); err != nil {
			return nil, fmt.Errorf("read the private PostgreSQL: %w", err)
		}
		if note := memoryDisk(own.dir); note != "" {
			s.Note(note)
		}
	} else {
		if err := c.remote(ctx, tty, s, live); err != nil {
			return nil, err
		}
		if c.Users != "" {
			if accounts, err = readAccounts(c.Users); err != nil {
				return nil, err
			}
		}
	}
	closers = append(closers, func() error {
		s.API.Close()
		if s.Database != nil {
			s.Database.Close()
		}
		return nil
	})
	s.People = bench.NewPeople(s.API, prefix, accounts)
	s.People.Seen = live.people
	if c.Users != "" {
		s.People.Made = func(a bench.Account) {
			if err := appendAccount(c.Users, a); err != nil {
				s.Note(fmt.Sprintf("--users: %v", err))
			}
		}
	}
	r.Server.URL, r.Server.MQTT = s.API.Base, s.Addrs
	if r.Server.Version, err = s.API.Version(ctx); err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	if s.Database != nil {
		r.Server.PostgreSQL = s.Database.Version
		for _, n := range s.Database.Notes {
			s.Note(n)
		}
	}
	return closing, nil
}

// benchPrefix begins the names of the users of a run.
func benchPrefix() (string, error) {
	var b [4]byte
	_, err := rand.Read(b[:])
	return "bench-" + hex.EncodeToString(b[:]), err
}

// remote reads where a running server is, and asks before it is loaded if it is not on this machine.
func (c *benchCmd) remote(ctx context.Context, tty terminal, s *bench.Session, live *liveLine) error {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("--url: %q is no URL such as http://localhost:8080", c.URL)
	}
	s.API, s.Addrs = bench.NewAPI(u.Scheme+"://"+u.Host), c.MQTT
	if len(s.Addrs) == 0 {
		s.Addrs = []string{"mqtt://" + net.JoinHostPort(u.Hostname(), "1883")}
		if u.Scheme == "https" {
			s.Addrs[0] = "mqtts://" + net.JoinHostPort(u.Hostname(), "8883")
		}
	}
	hosts := []string{u.Hostname()}
	for _, a := range s.Addrs {
		scheme, rest, ok := strings.Cut(a, "://")
		if !ok {
			scheme, rest = "mqtt", a
		}
		host, _, err := net.SplitHostPort(rest)
		if err != nil || scheme != "mqtt" && scheme != "mqtts" {
			return fmt.Errorf("--mqtt: %q is no address such as mqtt://localhost:1883 or mqtts://localhost:8883", a)
		}
		hosts = append(hosts, host)
	}
	s.Processes = bench.Processes{Server: c.ServerPID, Postgres: c.PostgresPID, Redis: c.RedisPID}
	if !s.Processes.Known() {
		s.Note("CPU and memory of the server are not known: --server-pid")
	} else if _, err := s.Processes.Read(); err != nil {
		return fmt.Errorf("--server-pid, --postgres-pid, --redis-pid: %w", err)
	}
	for _, host := range hosts {
		if !isLoopback(host) && !c.Yes {
			live.clear()
			if err := confirm(ctx, tty, host); err != nil {
				return err
			}
			break
		}
	}
	dsn := c.Database
	if dsn == "" {
		dsn = os.Getenv("DATABASE_URL")
	}
	if dsn == "" {
		s.Note("what PostgreSQL writes is not known: --database or DATABASE_URL")
		return nil
	}
	if s.Database, err = bench.OpenDatabase(ctx, dsn); err != nil {
		return fmt.Errorf("--database: %w", err)
	}
	return nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// confirm has somebody type the name of a host.
func confirm(ctx context.Context, tty terminal, host string) error {
	in, ok := tty.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fmt.Errorf("%s is another machine, and nobody can be asked here: --yes says that it may be loaded", host)
	}
	fmt.Fprintf(tty.Err, "This makes as much load on %s as it can, and leaves users and conversations there\n(named bench-…). Type the host's name to go on: ", host)
	line := make(chan string, 1)
	go func() { // a read from a terminal cannot be interrupted: after ^C it is left to the end of the process
		text, _ := bufio.NewReader(in).ReadString('\n') // empty: not confirmed
		line <- strings.TrimSpace(text)
	}()
	select {
	case text := <-line:
		if text != host {
			return errors.New("not confirmed: nothing was done")
		}
		return nil
	case <-ctx.Done():
		return errInterrupted
	}
}

// readAccounts reads --users. A file that is not there has none.
func readAccounts(name string) (all []bench.Account, err error) {
	text, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	for i, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		user, password, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("--users: %s:%d is not name:password", name, i+1)
		}
		all = append(all, bench.Account{Username: user, Password: password})
	}
	return all, err
}

func appendAccount(name string, a bench.Account) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%s:%s\n", a.Username, a.Password)
	return errors.Join(err, f.Close())
}

// limits are what --limits measures beside the loads. stop ends what was started for it.
func (c *benchCmd) limits(s *bench.Session, loads []*bench.Plan, note func(string)) (plans []*bench.Plan, stop func()) {
	stop = func() {}
	d := min(c.Duration, 4*time.Second)
	if s.Database != nil {
		for _, o := range []bench.StatementOptions{{Connections: 1, Rows: 1}, {Connections: 16, Rows: 1}, {Connections: 1, Rows: 100}, {Connections: 4, Rows: 1000}} {
			o.Size, o.Duration = 200, d
			plans = append(plans, bench.RowsPlan(o))
		}
	} else {
		note("PostgreSQL alone was not measured: --database or DATABASE_URL")
	}
	if dir := c.diskDir(); dir != "" {
		plans = append(plans, bench.LimitPlan("fsync", "8 KiB written in a file and made durable", "writes", "a write", func(ctx context.Context, _ *bench.Session) (*bench.RepeatResult, error) {
			return bench.SyncLimit(ctx, dir, d)
		}))
	} else {
		note("the disk was not measured: it is another's")
	}
	plans = append(plans, bench.LimitPlan("loopback", "200 bytes through a TCP connection on this machine, and back", "round trips", "a round trip", func(ctx context.Context, _ *bench.Session) (*bench.RepeatResult, error) {
		return bench.LoopbackLimit(ctx, 200, d)
	}))
	if !slices.ContainsFunc(loads, func(p *bench.Plan) bool { return p.Chat != nil }) {
		return plans, stop
	}
	addr, pid, stopMosquitto, err := startMosquitto()
	if err != nil {
		note("mosquitto was not measured: " + err.Error())
		return plans, stop
	}
	for _, load := range loads {
		if load.Chat != nil {
			plans = append(plans, bench.BrokerLoad("mosquitto", addr, pid, *load.Chat))
		}
	}
	return plans, stopMosquitto
}

// diskDir is a folder on the disk of the server, as far as that is known.
func (c *benchCmd) diskDir() string {
	if c.URL != "" {
		return ""
	}
	dir, _ := c.ownDir() // it was found before
	return dir
}

// lookPath finds a program, also where servers are kept out of a user's PATH.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	if err != nil {
		return "", fmt.Errorf("there is no %s on PATH", name)
	}
	return path, nil
}
