package campaign

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What is between the nodes.
const (
	RedisSingle  = "single"  // one redis-server
	RedisCluster = "cluster" // a Redis Cluster of three
)

const redisShards = 3

// redis is the campaign's own Redis. The nodes reach it through their proxies.
type redis struct {
	c       *campaign
	sharded bool
	servers []*redisServer
}

// redisServer is one redis-server, on the same port whenever it is started.
type redisServer struct {
	dir  string
	port int
	args []string

	mu     sync.Mutex
	cmd    *exec.Cmd     // mu guards; nil: not running
	exited chan struct{} // mu guards
}

// start starts all servers, and waits until they can be used.
func (r *redis) start(ctx context.Context) error {
	n := 1
	if r.sharded {
		n = redisShards
	}
	for i := range n {
		s := &redisServer{dir: filepath.Join(r.c.o.Dir, "redis-"+strconv.Itoa(i))}
		if err := os.Mkdir(s.dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		var bus int
		var err error
		if s.port, err = freePort(); err != nil {
			return err
		}
		if bus, err = freePort(); err != nil {
			return err
		}
		s.args = []string{"--port", strconv.Itoa(s.port), "--bind", "127.0.0.1", "--dir", s.dir, "--logfile", "redis.log", "--save", "", "--appendonly", "no", "--enable-debug-command", "yes"}
		if r.sharded {
			s.args = append(s.args, "--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(bus), "--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no")
		}
		r.servers = append(r.servers, s)
		if err := s.start(ctx); err != nil {
			return err
		}
		if !r.sharded {
			continue
		}
		from, to := 16384*i/n, 16384*(i+1)/n-1
		for _, command := range []string{
			fmt.Sprintf("CLUSTER ADDSLOTSRANGE %d %d", from, to), fmt.Sprintf("CLUSTER SET-CONFIG-EPOCH %d", i+1),
			fmt.Sprintf("CLUSTER MEET 127.0.0.1 %d %s", r.servers[0].port, argument(r.servers[0].args, "--cluster-port")),
		} {
			if i == 0 && strings.HasPrefix(command, "CLUSTER MEET") {
				continue
			}
			if _, err := s.do(ctx, command); err != nil {
				return err
			}
		}
	}
	return r.whole(ctx)
}

// whole waits until a Cluster is one.
func (r *redis) whole(ctx context.Context) error {
	for end := time.Now().Add(30 * time.Second); r.sharded; {
		n := 0
		for _, s := range r.servers {
			info, err := s.do(ctx, "CLUSTER INFO")
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_slots_ok:16384") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d\r", redisShards)) {
				n++
			}
		}
		if n == len(r.servers) {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("the Redis Cluster does not become whole within 30 s")
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}

func argument(args []string, name string) string {
	for i, a := range args {
		if a == name {
			return args[i+1]
		}
	}
	return ""
}

// lines makes a node's proxies to all servers.
func (r *redis) lines() ([]*proxy, error) {
	var list []*proxy
	m := &mangler{ports: map[string]string{}, random: rand.New(rand.NewPCG(r.c.o.Seed, uint64(600+len(r.c.nodes))))}
	for _, s := range r.servers {
		p, err := newProxy()
		if err != nil {
			return list, err
		}
		list = append(list, p)
		_, port, _ := net.SplitHostPort(p.addr())
		m.ports[strconv.Itoa(s.port)] = port
	}
	for i, p := range list {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(r.servers[i].port))
		p.resp = m
		p.aim(func() (net.Conn, error) { return net.DialTimeout("tcp", addr, time.Second) })
	}
	return list, nil
}

// url is Redis as the node with these lines sees it.
func (r *redis) url(lines []*proxy) string {
	addrs := make([]string, len(lines))
	for i, p := range lines {
		addrs[i] = p.addr()
	}
	if r.sharded {
		return "redis+cluster://" + strings.Join(addrs, ",")
	}
	return "redis://" + addrs[0]
}

// stop ends all servers.
func (r *redis) stop() {
	for _, s := range r.servers {
		s.kill()
	}
}

// all runs a command at all servers, as far as they answer.
func (r *redis) all(ctx context.Context, command string) {
	for _, s := range r.servers {
		_, _ = s.do(ctx, command)
	}
}

// start starts the server and waits until it answers. It is empty.
func (s *redisServer) start(ctx context.Context) error {
	cmd := exec.Command("redis-server", s.args...)
	exited, err := spawn(cmd, func() {}, func() {})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.cmd, s.exited = cmd, exited
	s.mu.Unlock()
	for end := time.Now().Add(30 * time.Second); ; {
		if _, err = s.do(ctx, "PING"); err == nil {
			return nil
		}
		select {
		case <-exited:
			return fmt.Errorf("redis-server ended at once; see %s", filepath.Join(s.dir, "redis.log"))
		default:
		}
		if time.Now().After(end) || !sleep(ctx, 10*time.Millisecond) {
			return fmt.Errorf("redis-server does not answer: %w", err)
		}
	}
}

// kill ends the server at once, stopped or not, and waits for its end.
func (s *redisServer) kill() {
	s.mu.Lock()
	cmd, exited := s.cmd, s.exited
	s.cmd = nil
	s.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Kill()
		<-exited
	}
}

func (s *redisServer) signal(sig syscall.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(sig)
	}
}

// do runs a command, as one types it, past the proxies.
func (s *redisServer) do(ctx context.Context, command string) (string, error) {
	d := net.Dialer{Timeout: time.Second}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.WriteString(conn, command+"\r\n"); err != nil {
		return "", err
	}
	reply, err := readReply(nil, bufio.NewReaderSize(conn, 16<<10), 0)
	if err == nil && reply[0] == '-' {
		err = fmt.Errorf("redis: %s: %.200s", command, reply)
	}
	return string(reply), err
}

// freePort returns a port that nobody listens on now, of five digits as all that the
// system gives out, and not one of those: a server that is started again finds it free.
func freePort() (int, error) {
	for range 100 {
		port := 20_000 + rand.IntN(12_000)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		return port, l.Close()
	}
	return 0, errors.New("no free port between 20000 and 32000")
}
