package main_test

import (
	"io"
	"net"
	"sync"
	"testing"
)

// line is a TCP proxy before the server, whose connections can be cut.
type line struct {
	host, port string

	target string
	mu     sync.Mutex
	down   bool                  // mu guards: what connects is cut off at once
	open   map[net.Conn]struct{} // mu guards: both ends of every connection
	wg     sync.WaitGroup
}

// newLine returns a line to the address. It is closed when the test ends.
func newLine(t testing.TB, target string) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{target: target, open: map[net.Conn]struct{}{}}
	if l.host, l.port, err = net.SplitHostPort(listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	l.wg.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.carry(near) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		l.Cut()
		l.wg.Wait()
	})
	return l
}

// carry forwards a connection until either end closes it, or it is cut.
func (l *line) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	if l.down {
		l.mu.Unlock()
		return
	}
	l.open[near], l.open[far] = struct{}{}, struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
	l.mu.Lock()
	delete(l.open, near)
	delete(l.open, far)
	l.mu.Unlock()
}

// Cut cuts what is connected, without a goodbye to either end, and keeps the line down.
func (l *line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.open {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset, as when a cable is pulled and the other end is told late
		}
		_ = c.Close()
	}
}

// Mend lets connections through again.
func (l *line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}
