package campaign

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy is a line that faults can strike: it forwards connections to its target,
// which may change, as that of a server that is started again does.
type proxy struct {
	listener net.Listener

	mu     sync.Mutex
	target func() (net.Conn, error) // mu guards; nil: connections are refused
	links  map[*link]struct{}       // mu guards
	slow   time.Duration            // mu guards: delay of each chunk on links made from now on
	frozen bool                     // mu guards: nothing passes on links made from now on
	shut   bool                     // mu guards: connections are refused for now
	resp   *mangler                 // of what Redis answers; nil: as it is; not changed any more
	closed bool                     // mu guards
	wg     sync.WaitGroup
}

func newProxy() (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, links: map[*link]struct{}{}}
	p.wg.Go(p.accept)
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// aim sets where connections go from now on; nil: nowhere.
func (p *proxy) aim(dial func() (net.Conn, error)) {
	p.mu.Lock()
	p.target = dial
	p.mu.Unlock()
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.serve(near.(*net.TCPConn)) })
	}
}

func (p *proxy) serve(near *net.TCPConn) {
	p.mu.Lock()
	target, delay, frozen := p.target, p.slow, p.frozen
	if p.shut {
		target = nil
	}
	p.mu.Unlock()
	if target == nil {
		reset(near)
		return
	}
	far, err := target()
	if err != nil {
		reset(near)
		return
	}
	l := &link{near: near, far: far, done: make(chan struct{})}
	l.delay.Store(int64(delay))
	l.cutAfter.Store(-1)
	l.stallIn.Store(frozen)
	l.stallOut.Store(frozen)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		l.cut()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	answers := io.Reader(far)
	if p.resp != nil {
		answers = p.resp.reader(far)
	}
	both.Go(func() { l.pump(far, near, &l.stallIn) })
	both.Go(func() { l.pump(near, answers, &l.stallOut) })
	both.Wait()
	l.close()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// each returns the links there are.
func (p *proxy) each() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := make([]*link, 0, len(p.links))
	for l := range p.links {
		list = append(list, l)
	}
	return list
}

// find returns the link of the connection with the given local address, or nil.
func (p *proxy) find(local string) *link {
	for _, l := range p.each() {
		if l.near.RemoteAddr().String() == local {
			return l
		}
	}
	return nil
}

func (p *proxy) setSlow(d time.Duration) {
	p.mu.Lock()
	p.slow = d
	p.mu.Unlock()
	for _, l := range p.each() {
		l.delay.Store(int64(d))
	}
}

// freeze lets nothing pass, on what there is and what is made from now on: what is sent
// waits in the sockets, as behind a cut cable.
func (p *proxy) freeze() {
	p.mu.Lock()
	p.frozen = true
	p.mu.Unlock()
	for _, l := range p.each() {
		l.stallIn.Store(true)
		l.stallOut.Store(true)
	}
}

// reset resets what there is.
func (p *proxy) reset() {
	for _, l := range p.each() {
		l.cut()
	}
}

// refuse resets what there is and refuses what comes.
func (p *proxy) refuse() {
	p.mu.Lock()
	p.shut = true
	p.mu.Unlock()
	p.reset()
}

// heal ends every stall and delay, and takes connections again.
func (p *proxy) heal() {
	p.mu.Lock()
	p.frozen, p.shut = false, false
	p.mu.Unlock()
	p.setSlow(0)
	for _, l := range p.each() {
		l.stallIn.Store(false)
		l.stallOut.Store(false)
		l.cutAfter.Store(-1)
	}
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	for _, l := range p.each() {
		l.cut()
	}
	p.wg.Wait()
}

// link is one connection through a proxy. "in" is towards the target.
type link struct {
	near *net.TCPConn
	far  net.Conn
	done chan struct{} // closed with the link
	once sync.Once

	stallIn, stallOut atomic.Bool  // nothing passes; it waits in the sockets
	delay             atomic.Int64 // nanoseconds that each chunk waits
	cutAfter          atomic.Int64 // bytes that still pass before the line is cut; -1: no end
}

// pump forwards until either end has gone. A stalled pump leaves what comes in the
// kernel's buffers, as a line without a peer does.
func (l *link) pump(to net.Conn, from io.Reader, stall *atomic.Bool) {
	defer l.close()
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		for stall.Load() {
			if !l.wait(10 * time.Millisecond) {
				return
			}
		}
		if d := l.delay.Load(); d > 0 && n > 0 && !l.wait(time.Duration(d)/2+rand.N(time.Duration(d))) {
			return
		}
		if left := l.cutAfter.Load(); left >= 0 && n > 0 {
			if int64(n) >= left {
				_, _ = to.Write(buf[:left])
				l.cut()
				return
			}
			l.cutAfter.Add(int64(-n))
		}
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (l *link) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.done:
		return false
	case <-t.C:
		return true
	}
}

// cut resets both ends: what was on its way is lost.
func (l *link) cut() {
	reset(l.near)
	if tcp, ok := l.far.(*net.TCPConn); ok {
		reset(tcp)
	}
	l.close()
}

func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		_ = l.near.Close()
		_ = l.far.Close()
	})
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}
