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

// server is the parley process, one incarnation after the other.
type server struct {
	c   *campaign
	log *os.File // everything that every incarnation says

	mu          sync.Mutex
	cmd         *exec.Cmd     // mu guards; nil: not running
	exited      chan struct{} // mu guards
	expected    bool          // mu guards: it was told to end
	incarnation int           // mu guards
	ends        []serverEnd   // mu guards: of each incarnation that has ended, from 1
	peakKiB     int64         // mu guards: of the memory of any incarnation
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
	cmd.Env = append(os.Environ(), "DATABASE_URL="+s.c.databaseURL(), "GORACE=halt_on_error=0")
	cmd.SysProcAttr = diesWithUs()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	began := make(chan error)
	ready := make(chan readyLine, 1)
	exited := make(chan struct{})
	go func() { // ends with the process; keeps its thread, with which the process would end
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		began <- err
		if err != nil {
			return
		}
		s.listen(bufio.NewReader(stderr), ready)
		_ = cmd.Wait()
		close(exited)
		s.ended(cmd)
	}()
	if err := <-began; err != nil {
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
		s.c.mqtt.aim(func() (net.Conn, error) { return net.DialTimeout("tcp", r.MQTT, 5*time.Second) })
		s.c.http.aim(func() (net.Conn, error) { return net.DialTimeout("tcp", r.HTTP, 5*time.Second) })
		return nil
	case <-exited:
		return errors.New("the server ended before it was ready; its log says why")
	case <-t.C:
		return errors.New("the server was not ready within 90 s")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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
			s.c.violate("server", "a data race in the server: see %s", s.log.Name())
		case bytes.Contains(line, []byte("panic")):
			s.c.violate("server", "a panic in the server: %.300s", line)
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
		s.c.violate("server", "the server ended by itself: %v", cmd.ProcessState)
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
	s.c.mqtt.aim(nil)
	s.c.http.aim(nil)
	_ = cmd.Process.Signal(sig)
	t := time.NewTimer(40 * time.Second)
	defer t.Stop()
	select {
	case <-exited:
	case <-t.C:
		s.c.violate("server", "the server did not end within 40 s of %v", sig)
		_ = cmd.Process.Kill()
		<-exited
		saved = false
	}
	if code := cmd.ProcessState.ExitCode(); sig == syscall.SIGTERM && saved && code != 0 {
		s.c.violate("server", "the server ended with code %d after SIGTERM", code)
	}
	s.mu.Lock()
	s.ends = append(s.ends, serverEnd{s.c.now(), saved && sig == syscall.SIGTERM, sig.String()})
	s.cmd = nil
	s.mu.Unlock()
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

// watch samples the memory of the server until ctx ends.
func (s *server) watch(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
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
		s.mu.Unlock()
		if limit := s.c.o.MaxRSS; limit > 0 && peak > limit/1024 {
			s.c.violate("5, 6 memory", "the server has taken %d MiB, more than the %d allowed", peak/1024, limit>>20)
		}
	}
}
