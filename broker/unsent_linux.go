package broker

import (
	"crypto/tls"
	"net"
	"syscall"
	"unsafe"
)

// unsent returns how many bytes of what was written to a connection the peer's host has
// not acknowledged (tcp(7) and unix(7), SIOCOUTQ); 0 if that cannot be known.
func unsent(c net.Conn) int {
	for {
		switch outer := c.(type) {
		case *wsConn:
			c = outer.Conn
		case *tls.Conn:
			c = outer.NetConn()
		case *proxiedConn:
			c = outer.Conn
		case syscall.Conn:
			raw, err := outer.SyscallConn()
			if err != nil {
				return 0
			}
			var n int32
			_ = raw.Control(func(fd uintptr) {
				if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
					n = 0
				}
			})
			return int(n)
		default:
			return 0
		}
	}
}
