//go:build !unix

package rawio

import (
	"errors"
	"net"
)

// CanRead says whether Read works here.
const CanRead = false

// New returns c.
func New(c net.Conn) net.Conn { return c }

// Read does not work here.
func Read(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
