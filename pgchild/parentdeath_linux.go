package pgchild

import "syscall"

// needWatchdog is a variable for tests only.
var needWatchdog = false

func sysProcAttr(onDeath syscall.Signal) *syscall.SysProcAttr {
	if needWatchdog {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Pdeathsig: onDeath}
}
