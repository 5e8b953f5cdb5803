package pgchild

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// A child is a process of ours that does not outlive us.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process is reaped
	err    error         // of Wait; valid once exited is closed
}

// spawn starts cmd in a process group of its own, so that a terminal's ^C reaches us only. If we die, it
// gets the signal onDeath. The caller must wait for exited.
func spawn(cmd *exec.Cmd, cred *syscall.Credential, onDeath syscall.Signal) (*child, error) {
	cmd.SysProcAttr = sysProcAttr(onDeath)
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Credential = cred
	c := &child{cmd: cmd, exited: make(chan struct{})}
	started := make(chan error)
	// Ends when the process does. The parent-death signal is sent when the *thread* that forked ends, not
	// the process, so this goroutine keeps its thread for as long as the child lives.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err != nil {
			started <- err
			return
		}
		dismiss := func() {}
		if needWatchdog {
			if dismiss, err = watch(cmd.Process.Pid, onDeath); err != nil {
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
				started <- err
				return
			}
		}
		started <- nil
		c.err = cmd.Wait()
		dismiss()
		close(c.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// watch starts a shell that sends a process the signal onDeath when we are gone, for systems without a
// parent-death signal: it reads from a pipe that nobody writes to, whose end means ours. dismiss ends the
// shell and waits for it.
func watch(pid int, onDeath syscall.Signal) (dismiss func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/bin/sh", "-c", `read -r _; kill -"$1" "$2"`, "parley-watchdog", strconv.Itoa(int(onDeath)), strconv.Itoa(pid))
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("start watchdog: %w", err)
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = w.Close()
	}, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// end stops a postmaster with sig and waits for it: SIGINT is a fast shutdown, SIGQUIT an immediate one,
// without a checkpoint. After limit, or when hurry is closed, it gets SIGQUIT, and if that does not help
// SIGKILL. forced reports that sig alone was not enough.
func (c *child) end(sig syscall.Signal, limit time.Duration, hurry <-chan struct{}) (forced bool) {
	_ = c.cmd.Process.Signal(sig) // fails only if it has ended already
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-c.exited:
		return false
	case <-hurry:
	case <-t.C:
	}
	_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	t.Reset(quitTimeout)
	select {
	case <-c.exited:
	case <-t.C:
		// its own processes notice that within moments, and end
		_ = c.cmd.Process.Kill()
		<-c.exited
	}
	return true
}

// quitTimeout is past the 5 s after which a postmaster that got SIGQUIT kills what is left of its own.
// A variable for tests only.
var quitTimeout = 8 * time.Second
