package pgchild

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// A watchdog is a shell that signals a process when we are gone, for systems without a parent-death
// signal. It reads from a pipe that nobody writes to: its end means ours.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

func watch(pid int, onDeath syscall.Signal) (*watchdog, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", `read -r _; kill -"$1" "$2"`, "parley-watchdog",
		strconv.Itoa(int(onDeath)), strconv.Itoa(pid))
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	return &watchdog{cmd: cmd, pipe: w}, nil
}

// close dismisses the watchdog; its process has ended when close returns.
func (d *watchdog) close() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
	_ = d.pipe.Close()
}
