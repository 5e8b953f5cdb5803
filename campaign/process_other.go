//go:build !linux

package campaign

import "syscall"

func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }

func residentKiB(int) int64 { return 0 }
