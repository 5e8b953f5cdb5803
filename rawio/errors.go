package rawio

import "errors"

// ErrWouldBlock says that there is nothing to be read from a descriptor, or no room in it.
var ErrWouldBlock = errors.New("it would block")
