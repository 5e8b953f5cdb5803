//go:build unix && !linux

package rawio

import (
	"io"
	"net"
	"syscall"
)

// CanRead says whether Read works here.
const CanRead = true

// New returns c.
func New(c net.Conn) net.Conn { return c }

// Read reads once from a descriptor that does not block; n is not negative. Errors are EOF,
// ErrWouldBlock and those of the kernel.
func Read(fd uintptr, p []byte) (n int, err error) {
	for {
		switch n, err = syscall.Read(int(fd), p); {
		case err == syscall.EINTR:
			continue
		case err == syscall.EAGAIN:
			return 0, ErrWouldBlock
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}
