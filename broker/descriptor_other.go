//go:build !unix

package broker

import "errors"

const canReadDescriptor = false

var errWouldBlock = errors.ErrUnsupported

// readDescriptor is not used here.
func readDescriptor(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
