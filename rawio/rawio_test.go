package rawio_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/parleymq/parley/rawio"
)

// pair returns a connection of New and its peer.
func pair(t *testing.T, network string) (c, peer net.Conn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if peer, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	if c, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	c = rawio.New(c)
	t.Cleanup(func() { _ = c.Close() })
	return c, peer
}

func each(t *testing.T, f func(t *testing.T, c, peer net.Conn)) {
	t.Helper()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			c, peer := pair(t, network)
			f(t, c, peer)
		})
	}
}

// What is more than the socket takes at once goes through in both directions.
func TestLarge(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, c, peer net.Conn) {
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
		echoed := make(chan error, 1)
		go func() { // ends with the peer
			_, err := io.Copy(peer, peer)
			echoed <- err
		}()
		written := make(chan error, 1)
		go func() { // ends when the echo is read
			n, err := c.Write(sent)
			if err == nil && n != len(sent) {
				err = io.ErrShortWrite
			}
			written <- err
		}()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("read something else, %v", err)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if err := <-echoed; err != nil {
			t.Error(err)
		}
	})
}

func TestEnds(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, c, peer net.Conn) {
		if n, err := c.Read(nil); n != 0 || err != nil {
			t.Errorf("Read(nil) = %d, %v", n, err)
		}
		if n, err := c.Write(nil); n != 0 || err != nil {
			t.Errorf("Write(nil) = %d, %v", n, err)
		}
		_ = peer.Close()
		if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("Read of what the peer has closed = %d, %v, want EOF", n, err)
		}
		var err error
		for end := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(end); {
			_, err = c.Write([]byte("x")) // the first one may be taken, and is answered by a reset
		}
		if op := (*net.OpError)(nil); !errors.As(err, &op) || op.Op != "write" {
			t.Errorf("Write to what the peer has closed: %v", err)
		}
		_ = c.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read after Close: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Write after Close: %v", err)
		}
	})
}

// Close and deadlines wake who waits, and a write that is cut short says how much it was.
func TestWoken(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, c, peer net.Conn) {
		go func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }()
		_, err := c.Read(make([]byte, 1))
		var timeout net.Error
		if !errors.As(err, &timeout) || !timeout.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Read at its deadline: %v", err)
		}
		much := make([]byte, 64<<20)
		_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := c.Write(much)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write at its deadline = %d, %v", n, err)
		}
		got := make(chan int64, 1)
		go func() { // ends with c
			n, _ := io.Copy(io.Discard, peer)
			got <- n
		}()
		_ = c.SetDeadline(time.Time{})
		ended := make(chan error, 1)
		go func() { // ends with c
			_, err := c.Read(make([]byte, 1))
			ended <- err
		}()
		_ = c.Close()
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("Read, then Close: %v", err)
		}
		if received := <-got; received != int64(n) {
			t.Errorf("the peer has received %d bytes of the %d that Write said", received, n)
		}
	})
}

// What is neither TCP nor a Unix socket stays as it is.
func TestOthers(t *testing.T) {
	t.Parallel()
	c, peer := net.Pipe()
	defer c.Close()
	defer peer.Close()
	if got := rawio.New(c); got != c {
		t.Errorf("New(%T) is a %T", c, got)
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{"net": func(c net.Conn) net.Conn { return c }, "raw": rawio.New} {
		b.Run(name, func(b *testing.B) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			go func() { // ends with the connection
				peer, err := l.Accept()
				if err != nil {
					return
				}
				defer peer.Close()
				_, _ = io.Copy(struct{ io.Writer }{peer}, struct{ io.Reader }{peer})
			}()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			c = wrap(c)
			defer c.Close()
			p := make([]byte, 200)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(p); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(c, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
