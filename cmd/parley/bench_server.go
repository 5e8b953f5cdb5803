package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/parleymq/parley/bench"
	"github.com/parleymq/parley/pgchild"
)

// ownServer is a parley serve that was started to be measured, in a folder of its own. It is a process of its own,
// so that what it uses can be told from what the load uses.
type ownServer struct {
	c          *benchCmd
	dir        string
	dsn        string
	child      *benchChild
	mqtt, http string
}

// startupTime is how long a program may take until it is ready, and to end: the first start makes a cluster.
const startupTime = 3 * time.Minute

// ownDir is where servers have their folders.
func (c *benchCmd) ownDir() (string, error) {
	if c.Dir != "" {
		return c.Dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return os.TempDir(), nil // there is no home directory
	}
	return dir, os.MkdirAll(dir, 0o700)
}

// startServer makes a folder and starts a server in it.
func (c *benchCmd) startServer(ctx context.Context) (*ownServer, error) {
	parent, err := c.ownDir()
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	dir, err := os.MkdirTemp(parent, "parley-bench-")
	if err != nil {
		return nil, fmt.Errorf("--dir: %w", err)
	}
	s := &ownServer{c: c, dir: dir}
	place, err := pgchild.New(pgchild.Options{Dir: filepath.Join(dir, "postgres"), BinDir: c.PostgresBin})
	if err == nil {
		s.dsn = place.DSN()
		err = s.start(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

func (s *ownServer) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	args := []string{"serve", "--data=" + s.dir, "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--no-rate-limits", "--log-format=json"}
	if s.c.PostgresBin != "" {
		args = append(args, "--postgres-bin="+s.c.PostgresBin)
	}
	cmd := exec.Command(cmp.Or(s.c.Binary, self), append(args, strings.Fields(s.c.ServeArgs)...)...)
	cmd.Env = ownEnvironment(os.Environ())
	log := &serverLog{ready: make(chan struct{})}
	cmd.Stderr, cmd.WaitDelay = log, startupTime
	if s.child, err = startChild(cmd); err != nil {
		return err
	}
	select {
	case <-log.ready:
		s.mqtt, s.http = log.mqtt, log.http
		return nil
	case <-ctx.Done():
		return errors.Join(errInterrupted, s.child.stop())
	case <-s.child.ended:
		return fmt.Errorf("parley serve ended before it was ready: %s", log.last())
	case <-time.After(startupTime):
		return errors.Join(fmt.Errorf("parley serve was not ready after %v", startupTime), s.child.stop())
	}
}

// use sets where the server is.
func (s *ownServer) use(to *bench.Session) {
	to.API, to.Addrs, to.Processes = bench.NewAPI("http://"+s.http), []string{"mqtt://" + s.mqtt}, bench.Processes{Server: s.child.pid()}
	if to.People != nil {
		to.People.Use(to.API)
	}
}

// restart stops the server and starts it again, with the same data and on other ports.
func (s *ownServer) restart(ctx context.Context) error {
	if err := s.child.stop(); err != nil {
		return err
	}
	return s.start(ctx)
}

// remove stops the server and removes its data.
func (s *ownServer) remove() error {
	return errors.Join(s.child.stop(), os.RemoveAll(s.dir))
}

// ownEnvironment is the environment without what Parley and libpq read: another database, above all.
func ownEnvironment(environ []string) (env []string) {
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "PARLEY_") && !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "DATABASE_URL=") && !strings.HasPrefix(kv, "REDIS_URL=") {
			env = append(env, kv)
		}
	}
	return env
}

// serverLog reads the log of parley serve: where it listens, and why it has ended.
type serverLog struct {
	line       []byte        // the last one, as far as it has come
	before     []byte        // the one before
	ready      chan struct{} // closed when it is; then mqtt and http are set
	mqtt, http string
}

func (l *serverLog) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, more, ended := bytes.Cut(rest, []byte("\n"))
		l.line, rest = append(l.line, part...), more
		if !ended {
			break
		}
		var said struct{ Msg, MQTT, HTTP string }
		if l.mqtt == "" && json.Unmarshal(l.line, &said) == nil && said.Msg == "ready" {
			l.mqtt, l.http = said.MQTT, said.HTTP
			close(l.ready)
		}
		l.line, l.before = l.before[:0], l.line
	}
	return len(p), nil
}

// last is the last line, once the process has ended.
func (l *serverLog) last() string { return cmp.Or(string(l.line), string(l.before)) }

// startMosquitto starts a broker that stores nothing, on a free port of this machine.
func startMosquitto() (addr string, pid int, stop func(), err error) {
	path, err := lookPath("mosquitto")
	if err != nil {
		return "", 0, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", 0, nil, err
	}
	addr = l.Addr().String()
	_ = l.Close()
	conf, err := os.CreateTemp("", "parley-bench-*.conf")
	if err != nil {
		return "", 0, nil, err
	}
	_, port, _ := net.SplitHostPort(addr) // it was made by net
	_, err = fmt.Fprintf(conf, "listener %s 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\nmax_queued_messages 0\nlog_dest none\n", port)
	defer os.Remove(conf.Name())
	if err := errors.Join(err, conf.Chmod(0o644), conf.Close()); err != nil {
		return "", 0, nil, err
	}
	child, err := startChild(exec.Command(path, "-c", conf.Name()))
	if err != nil {
		return "", 0, nil, err
	}
	stop = func() { _ = child.stop() } // it keeps nothing
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
			return addr, child.pid(), stop, nil
		}
		select {
		case <-child.ended:
			return "", 0, nil, errors.New("it ended at once")
		default:
		}
		if time.Now().After(end) {
			stop()
			return "", 0, nil, errors.New("it did not listen")
		}
	}
}

// benchChild is a program that runs until it is stopped, and not longer than this one (on Linux).
type benchChild struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended
}

// startChild starts a program. A signal from the terminal does not reach it: this program ends it in order.
func startChild(cmd *exec.Cmd) (*benchChild, error) {
	c := &benchChild{cmd: cmd, ended: make(chan struct{})}
	cmd.SysProcAttr = childAttr()
	started := make(chan error)
	go func() { // ends with the child
		// The kernel ends the child with the thread that has started it, so that has to live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // stop looks at how it has ended
		close(c.ended)
	}()
	return c, <-started
}

func (c *benchChild) pid() int { return c.cmd.Process.Pid }

// stop ends it, if it runs, and reports it as an error if it does not end well.
func (c *benchChild) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case <-c.ended:
	case <-time.After(startupTime):
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with %d", filepath.Base(c.cmd.Path), code)
	}
	return nil
}
