package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/parleymq/parley/programtest"
)

// Patience is how long anything here is waited for before the test fails.
const Patience = 30 * time.Second

// Server is one redis-server, or one Sentinel.
type Server struct {
	// Port is where it listens, on 127.0.0.1; the same after Restart.
	Port int

	t      testing.TB
	bin    string
	args   []string
	dir    string
	client *redis.Client // for Do; answers wait for Patience
	files  *tlsFiles     // nil without TLS

	mu      sync.Mutex
	process *process // nil while it is down
}

// Start runs a server that saves nothing, until the test ends. args are more of its
// options, such as "--maxmemory", "1mb".
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	s := newServer(t, "redis-server", nil)
	s.args = append([]string{"--save", "", "--appendonly", "no", "--port", strconv.Itoa(s.Port)}, args...)
	s.start()
	return s
}

func newServer(t testing.TB, bin string, files *tlsFiles) *Server {
	t.Helper()
	path := programtest.Path(t, bin)
	logging.Disable()
	s := &Server{Port: freePort(t), t: t, bin: path, dir: t.TempDir(), files: files}
	o := &redis.Options{
		Addr: s.Addr(), Protocol: 2, MaxRetries: -1, DialerRetries: 1, DialTimeout: Patience, ReadTimeout: Patience, PoolSize: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if files != nil {
		o.TLSConfig = files.client(t)
	}
	s.client = redis.NewClient(o)
	t.Cleanup(func() {
		_ = s.client.Close()
		s.Kill()
	})
	return s
}

// Addr is host:port.
func (s *Server) Addr() string { return "127.0.0.1:" + strconv.Itoa(s.Port) }

// URL is how to connect to it: redis://127.0.0.1:port, or rediss with the certificates.
func (s *Server) URL() string {
	if s.files != nil {
		return "rediss://" + s.Addr() + s.files.query()
	}
	return "redis://" + s.Addr()
}

// Do runs a command at the server and returns its reply. It fails the test on an error.
func (s *Server) Do(args ...any) any {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	reply, err := s.client.Do(ctx, args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		s.t.Fatalf("redis %v: %v", args[0], err)
	}
	return reply
}

// Try is Do for a command that may fail.
func (s *Server) Try(args ...any) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return s.client.Do(ctx, args...).Result()
}

// Kill ends the server at once (SIGKILL), stopped or not. What it knew is gone.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.end()
		s.process = nil
	}
}

// Restart starts the server again after Kill, empty, on the same port.
func (s *Server) Restart() {
	s.t.Helper()
	s.start()
}

// Pause stops the process (SIGSTOP): connections are made by the kernel and nothing
// answers. Resume lets it go on.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		s.t.Fatal("the server is down")
	}
	if err := syscall.Kill(s.process.pid, sig); err != nil {
		s.t.Fatal("signal the server:", err)
	}
}

// start runs the process and waits until it answers.
func (s *Server) start() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := run(s.bin, append([]string{}, s.args...), s.dir)
	if err != nil {
		s.t.Fatal("start redis-server:", err)
	}
	s.process = p
	Await(s.t, "redis-server", func() bool {
		if p.ended() {
			s.t.Fatalf("redis-server ended:\n%s", p.output())
		}
		c, err := net.DialTimeout("tcp", s.Addr(), time.Second)
		if err != nil {
			return false
		}
		c.Close()
		_, err = s.Try("PING")
		return err == nil || strings.HasPrefix(err.Error(), "NOAUTH")
	})
}

// Await waits until a condition holds, and fails the test after Patience.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("gave up waiting for", what)
		}
	}
}

// process is a server under a shell that kills it when our end of a pipe closes: also
// when this process dies and no cleanup runs.
type process struct {
	cmd   *exec.Cmd
	pid   int
	stdin io.Closer
	log   string
	done  chan struct{} // closed when the shell has ended
}

const guard = `"$@" >"$LOG" 2>&1 </dev/null & p=$!; echo $p; read -r _; kill -9 $p 2>/dev/null; wait $p 2>/dev/null`

func run(bin string, args []string, dir string) (*process, error) {
	log := filepath.Join(dir, "log")
	cmd := exec.Command("/bin/sh", append([]string{"-c", guard, "sh", bin}, append(args, "--bind", "127.0.0.1", "--dir", dir, "--daemonize", "no")...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "LOG="+log)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, stdin: stdin, log: log, done: make(chan struct{})}
	line := make([]byte, 32)
	n, err := stdout.Read(line)
	if err == nil {
		p.pid, err = strconv.Atoi(string(bytes.TrimSpace(line[:n])))
	}
	go func() { // ends with the shell; end waits for it
		defer close(p.done)
		_ = cmd.Wait()
	}()
	if err != nil {
		p.end()
		return nil, fmt.Errorf("the shell says no pid: %w", err)
	}
	return p, nil
}

// end kills the server and waits for it.
func (p *process) end() {
	p.stdin.Close()
	<-p.done
}

// ended reports whether the server has ended by itself.
func (p *process) ended() bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return syscall.Kill(p.pid, 0) != nil
	}
	_, state, _ := bytes.Cut(b, []byte(") "))
	return len(state) > 0 && state[0] == 'Z'
}

func (p *process) output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// freePort returns a port that nobody listens on, and that is given out once.
func freePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if !ports.given[port] {
			ports.given[port] = true
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}
