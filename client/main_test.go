package client_test

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/client"
	"github.com/parleymq/parley/store/storetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crash()
		return
	}
	storetest.Main(withServer{m})
}

// withServer starts a server for the examples, which cannot start one themselves: they
// find it where a program would, in its environment.
type withServer struct{ m *testing.M }

// Run implements goleak.TestingM.
func (w withServer) Run() int {
	flag.Parse()
	t := &forMain{}
	defer t.end()
	if a := t.start(); a != nil {
		os.Setenv("PARLEY_URL", "http://"+a.HTTPAddr())
		t.accounts(a)
	} else {
		_ = flag.Set("test.run", "^Test") // without PostgreSQL tests skip; examples cannot
	}
	return w.m.Run()
}

// forMain is a testing.TB outside of any test.
type forMain struct {
	testing.TB
	cleanups []func()
}

type skipped struct{}

func (t *forMain) Helper()                  {}
func (t *forMain) Context() context.Context { return context.Background() }
func (t *forMain) Cleanup(f func())         { t.cleanups = append(t.cleanups, f) }
func (t *forMain) Log(...any)               {}
func (t *forMain) Skip(...any)              { panic(skipped{}) }
func (t *forMain) Fatal(args ...any)        { panic(fmt.Sprintln(args...)) }
func (t *forMain) Fatalf(f string, a ...any) {
	panic(fmt.Sprintf(f, a...))
}
func (t *forMain) Error(args ...any)            { panic(fmt.Sprintln(args...)) }
func (t *forMain) Errorf(f string, args ...any) { panic(fmt.Sprintf(f, args...)) }

func (t *forMain) start() (a *apptest.App) {
	defer func() {
		if r := recover(); r != nil && r != (skipped{}) {
			panic(r)
		}
	}()
	return apptest.Start(t)
}

func (t *forMain) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}

// accounts makes Ann and Bob, of whom the examples speak.
func (t *forMain) accounts(a *apptest.App) {
	api, err := client.NewAPI(client.Options{URL: "http://" + a.HTTPAddr()})
	if err != nil {
		t.Fatal(err)
	}
	defer api.CloseIdle()
	for _, u := range []client.NewUser{
		{Username: "ann", Email: "ann@example.com", Password: "correct horse"},
		{Username: "bob", Email: "bob@example.com", Password: "battery staple"},
	} {
		if _, err := api.Register(context.Background(), u); err != nil {
			t.Fatal(err)
		}
	}
}

// options are for a user of a test's server.
func options(a *apptest.App, u apptest.User, clientID string) client.Options {
	return client.Options{
		URL: "http://" + a.HTTPAddr(), MQTTURL: "mqtt://" + a.MQTTAddr(), ClientID: clientID, MaxBackoff: 500 * time.Millisecond,
		Token: func(context.Context) (string, error) { return u.Token, nil },
	}
}

// dial connects until the test ends.
func dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(patient(t), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shut(t, c) })
	return c
}

func shut(t testing.TB, c *client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), brokertest.Patience)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		t.Error("close:", err)
	}
}

// patient is a context for things that take a moment.
func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), brokertest.Patience)
	t.Cleanup(cancel)
	return ctx
}

// expect returns the next value of a channel.
func expect[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(brokertest.Patience):
		t.Fatal("gave up waiting for", what)
		panic("not reached")
	}
}

// events is an OnEvent that passes on what comes.
func events(to chan<- *client.Event) func(context.Context, *client.Event) error {
	return func(ctx context.Context, e *client.Event) error {
		select {
		case to <- e:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// line is a TCP proxy before a server, whose connections can be cut.
type line struct {
	l net.Listener

	mu    sync.Mutex
	to    string
	down  bool // whoever comes is sent away
	conns map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &line{l: l, to: to, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *line) serve() {
	for {
		near, err := p.l.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		to, down := p.to, p.down
		p.mu.Unlock()
		if down {
			near.Close()
			continue
		}
		far, err := net.Dial("tcp", to)
		if err != nil {
			near.Close()
			continue
		}
		p.mu.Lock()
		p.conns[near], p.conns[far] = struct{}{}, struct{}{}
		p.mu.Unlock()
		for _, ends := range [][2]net.Conn{{near, far}, {far, near}} {
			p.wg.Go(func() {
				buf := make([]byte, 4096)
				for {
					n, err := ends[0].Read(buf)
					if n > 0 {
						if _, err := ends[1].Write(buf[:n]); err != nil {
							break
						}
					}
					if err != nil {
						break
					}
				}
				ends[0].Close()
				ends[1].Close()
				p.mu.Lock()
				delete(p.conns, ends[0])
				p.mu.Unlock()
			})
		}
	}
}

func (p *line) addr() string { return p.l.Addr().String() }

// cut closes every connection, without a goodbye.
func (p *line) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// takeDown sends whoever comes away, until it is called with false.
func (p *line) takeDown(down bool) {
	p.mu.Lock()
	p.down = down
	p.mu.Unlock()
	p.cut()
}
