//go:build !linux

package pgchild

import "syscall"

const needWatchdog = true

func sysProcAttr(syscall.Signal) *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
