package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttr lets a child end with this process, and keeps the terminal's signals from it.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// memoryDisk says if a folder is in memory: a commit there waits for no disk.
func memoryDisk(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil || s.Type != unix.TMPFS_MAGIC {
		return ""
	}
	return dir + " is in memory: a commit waits for no disk; --dir names another folder"
}
