//go:build unix

package broker

import (
	"io"
	"syscall"
)

const (
	canReadDescriptor = true
	errWouldBlock     = syscall.EAGAIN
)

// readDescriptor reads once from a descriptor that does not block; n is not negative.
func readDescriptor(fd uintptr, p []byte) (n int, err error) {
	for {
		switch n, err = syscall.Read(int(fd), p); {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}
