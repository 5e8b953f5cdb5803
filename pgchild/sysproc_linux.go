package pgchild

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// needWatchdog is a variable for tests only.
var needWatchdog = false

func sysProcAttr(onDeath syscall.Signal) *syscall.SysProcAttr {
	if needWatchdog {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Pdeathsig: onDeath}
}

// lend passes the open folder at path to cmd and returns the name by which the process of an account that
// perhaps cannot walk there finds it. The server's own children inherit the descriptor and so the name.
func lend(cmd *exec.Cmd, folder *os.File, _ string) string {
	cmd.ExtraFiles = append(cmd.ExtraFiles, folder)
	return fmt.Sprintf("/proc/self/fd/%d", 2+len(cmd.ExtraFiles))
}
