package rawio

import (
	"cmp"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// CanRead says whether Read works here.
const CanRead = true

// socket is what a TCP or Unix connection of package net is.
type socket interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// Conn is a connection whose Read and Write do not go through the scheduler. At most one goroutine
// may read at once, and at most one may write.
type Conn struct {
	socket
	raw         syscall.RawConn
	read, write *transfer // made when they are needed: many connections are idle
}

// transfer is a Read or a Write under way. Its function is made once, because it escapes.
type transfer struct {
	step func(fd uintptr) (done bool)
	p    []byte
	n    int
	err  error
}

// New returns c with such a Read and Write, or c itself where that cannot be: it is neither TCP nor
// a Unix socket.
func New(c net.Conn) net.Conn {
	s, ok := c.(socket)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	return &Conn{socket: s, raw: raw}
}

func newRead() *transfer {
	t := &transfer{}
	t.step = func(fd uintptr) bool {
		t.n, t.err = Read(fd, t.p)
		return !errors.Is(t.err, ErrWouldBlock)
	}
	return t
}

func newWrite() *transfer {
	t := &transfer{}
	t.step = func(fd uintptr) bool {
		for t.err = nil; len(t.p) > t.n && t.err == nil; {
			var n int
			n, t.err = transferred(syscall.SYS_WRITE, fd, t.p[t.n:])
			t.n += n
		}
		return !errors.Is(t.err, ErrWouldBlock)
	}
	return t
}

// Read reads once from a descriptor that does not block; n is not negative. Errors are EOF,
// ErrWouldBlock and those of the kernel.
func Read(fd uintptr, p []byte) (n int, err error) {
	if n, err = transferred(syscall.SYS_READ, fd, p); n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// transferred makes a system call that does not block, as the socket does not, without telling the
// scheduler.
func transferred(call, fd uintptr, p []byte) (int, error) {
	for {
		switch n, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))); errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, ErrWouldBlock // without an allocation
		default:
			return 0, errno
		}
	}
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.read == nil {
		c.read = newRead()
	}
	t := c.read
	t.p, t.n, t.err = p, 0, nil
	err := c.raw.Read(t.step)
	t.p = nil
	return t.n, c.fault("read", err, t.err)
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if c.write == nil {
		c.write = newWrite()
	}
	t := c.write
	t.p, t.n, t.err = p, 0, nil
	err := c.raw.Write(t.step)
	t.p = nil
	return t.n, c.fault("write", err, t.err)
}

// fault is the error of a transfer: that of the wait for it, such as that of a deadline, or what
// the kernel said, as package net says it.
func (c *Conn) fault(op string, err, said error) error {
	if err != nil || said == nil || errors.Is(said, io.EOF) {
		return cmp.Or(err, said)
	}
	local := c.LocalAddr()
	return &net.OpError{Op: op, Net: local.Network(), Source: local, Addr: c.RemoteAddr(), Err: os.NewSyscallError(op, said)}
}
