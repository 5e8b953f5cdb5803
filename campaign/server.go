package campaign

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// BuildServer builds parley into dir and returns its path. It must be called
// within the module.
func BuildServer(ctx context.Context, dir string, race bool) (string, error) {
	binary := filepath.Join(dir, "parley")
	args := []string{"build", "-o", binary}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/parleymq/parley/cmd/parley")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the server: %w\n%s", err, out)
	}
	return binary, nil
}

// server is one parley process, one incarnation after the other, with the lines that
// lead to it and those by which it reaches others.
type server struct {
	c    *campaign
	name string   // among the nodes; "" where there is one
	log  *os.File // everything that every incarnation says

	mqtt    *proxy   // devices to it
	http    *proxy   // REST to it
	toDB    *proxy   // it to PostgreSQL
	toRedis []*proxy // it to each server of Redis
	pauses  outages  // it was stopped, and went on

	mu          sync.Mutex
	cmd         *exec.Cmd     // mu guards; nil: not running
	exited      chan struct{} // mu guards
	expected    bool          // mu guards: it was asked to end
	incarnation int           // mu guards
	ends        []serverEnd   // mu guards: of each incarnation that has ended, from 1
	peakKiB     int64         // mu guards: of the memory of any incarnation
	metricsURL  string        // mu guards: of the running one
	metrics     tally         // mu guards: what its incarnations have counted
}

func newServer(c *campaign, name string) (*server, error) {
	s := &server{c: c, name: name}
	file := "server.log"
	if name != "" {
		file = "server-" + name + ".log"
	}
	var err error
	if s.log, err = os.Create(filepath.Join(c.o.Dir, file)); err != nil {
		return nil, err
	}
	for _, p := range []**proxy{&s.mqtt, &s.http, &s.toDB} {
		if *p, err = newProxy(); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	s.toDB.aim(c.pg.dial)
	if c.redis != nil {
		if s.toRedis, err = c.redis.lines(); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	return s, nil
}

// close closes its lines and its log. It has ended.
func (s *server) close() error {
	for _, p := range s.lines() {
		p.close()
	}
	return s.log.Close()
}

// lines returns all proxies there are.
func (s *server) lines() []*proxy {
	var list []*proxy
	for _, p := range append([]*proxy{s.mqtt, s.http, s.toDB}, s.toRedis...) {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// databaseURL is PostgreSQL as the server sees it: through its proxy.
func (s *server) databaseURL() string {
	return "postgres://parley@" + s.toDB.addr() + "/parley?sslmode=disable&connect_timeout=5"
}

// what names it in a report.
func (s *server) what() string {
	if s.name == "" {
		return "the server"
	}
	return "node " + s.name
}

// serverEnd is how an incarnation ended.
type serverEnd struct {
	at     time.Duration
	saved  bool // asked to stop, with its database at hand: everything it knew is stored
	reason string
}

type readyLine struct {
	Msg, MQTT, HTTP string
}

// start starts the next incarnation and waits until it is ready.
func (s *server) start(ctx context.Context) error {
	cmd := exec.Command(s.c.o.Server, "serve", "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--no-rate-limits", "--log-format=json")
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.databaseURL(), "GORACE=halt_on_error=0")
	if s.c.redis != nil {
		cmd.Env = append(cmd.Env, "PARLEY_NODE="+s.name, "REDIS_URL="+s.c.redis.url(s.toRedis))
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	ready := make(chan readyLine, 1)
	exited, err := spawn(cmd, func() { s.listen(bufio.NewReader(stderr), ready) }, func() { s.ended(cmd) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.cmd, s.exited, s.expected = cmd, exited, false
	s.incarnation++
	s.mu.Unlock()
	t := time.NewTimer(90 * time.Second)
	defer t.Stop()
	select {
	case r := <-ready:
		s.mqtt.aim(func() (net.Conn, error) { return net.DialTimeout("tcp", r.MQTT, 5*time.Second) })
		s.http.aim(func() (net.Conn, error) { return net.DialTimeout("tcp", r.HTTP, 5*time.Second) })
		s.mu.Lock()
		s.metricsURL = "http://" + r.HTTP + "/metrics"
		s.metrics.begin()
		s.mu.Unlock()
		return nil
	case <-exited:
		return errors.New(s.what() + " ended before it was ready; its log says why")
	case <-t.C:
		return errors.New(s.what() + " was not ready within 90 s")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spawn starts a process that ends when this one does, on a thread of its own, which
// lives as long: read is called while it runs, ended after its end. exited is closed
// between the two.
func spawn(cmd *exec.Cmd, read, ended func()) (exited chan struct{}, err error) {
	cmd.SysProcAttr = diesWithUs()
	began := make(chan error)
	exited = make(chan struct{})
	go func() { // ends with the process
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		began <- err
		if err != nil {
			return
		}
		read()
		_ = cmd.Wait()
		close(exited)
		ended()
	}()
	return exited, <-began
}

// listen keeps what the server says and looks for what it should never say.
func (s *server) listen(r *bufio.Reader, ready chan<- readyLine) {
	for {
		line, err := r.ReadBytes('\n')
		_, _ = s.log.Write(line)
		switch {
		case bytes.Contains(line, []byte(`"msg":"ready"`)):
			var rl readyLine
			if json.Unmarshal(line, &rl) == nil {
				select {
				case ready <- rl:
				default:
				}
			}
		case bytes.Contains(line, []byte("WARNING: DATA RACE")):
			s.c.violate("server", "a data race in %s: see %s", s.what(), s.log.Name())
		case bytes.Contains(line, []byte("panic")):
			s.c.violate("server", "a panic in %s: %.300s", s.what(), line)
		case bytes.Contains(line, []byte(`"level":"ERROR"`)):
			s.c.count("server: ERROR in its log", 1)
		}
		if err != nil {
			return
		}
	}
}

func (s *server) ended(cmd *exec.Cmd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == cmd && !s.expected {
		s.c.violate("server", "%s ended by itself: %v", s.what(), cmd.ProcessState)
		s.ends = append(s.ends, serverEnd{s.c.now(), false, "by itself"})
		s.cmd = nil
	}
}

// stop ends the server with a signal and waits. saved says that the database can
// be reached.
func (s *server) stop(sig syscall.Signal, saved bool) {
	s.mu.Lock()
	cmd, exited := s.cmd, s.exited
	if cmd == nil {
		s.mu.Unlock()
		return
	}
	s.expected = true
	s.mu.Unlock()
	s.mqtt.aim(nil)
	s.http.aim(nil)
	_ = cmd.Process.Signal(sig)
	t := time.NewTimer(40 * time.Second)
	defer t.Stop()
	select {
	case <-exited:
	case <-t.C:
		s.c.violate("server", "%s did not end within 40 s of %v", s.what(), sig)
		_ = cmd.Process.Kill()
		<-exited
		saved = false
	}
	if code := cmd.ProcessState.ExitCode(); sig == syscall.SIGTERM && saved && code != 0 {
		s.c.violate("server", "%s ended with code %d after SIGTERM", s.what(), code)
	}
	s.mu.Lock()
	s.ends = append(s.ends, serverEnd{s.c.now(), saved && sig == syscall.SIGTERM, sig.String()})
	s.cmd = nil
	s.mu.Unlock()
}

// signal sends the running server a signal that does not end it.
func (s *server) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(sig)
	}
}

// current returns the number of the incarnation that runs, or ran last.
func (s *server) current() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.incarnation
}

// crashes returns the ends of the incarnations from, up to but without to, that
// may have lost what only they knew.
func (s *server) crashes(from, to int) []serverEnd {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []serverEnd
	for i := from; i < to; i++ {
		if i >= 1 && i <= len(s.ends) && !s.ends[i-1].saved {
			list = append(list, s.ends[i-1])
		}
	}
	return list
}

// watch samples the memory of the server, and what it counts, until ctx ends.
func (s *server) watch(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		if s.cmd != nil {
			s.peakKiB = max(s.peakKiB, residentKiB(s.cmd.Process.Pid))
		}
		peak := s.peakKiB
		url := s.metricsURL
		s.mu.Unlock()
		if n++; n%8 == 0 && s.c.redis != nil {
			s.count(ctx, url)
		}
		if limit := s.c.o.MaxRSS; limit > 0 && peak > limit/1024 {
			s.c.violate("5, 6 memory", "%s has taken %d MiB, more than the %d allowed", s.what(), peak/1024, limit>>20)
		}
	}
}
