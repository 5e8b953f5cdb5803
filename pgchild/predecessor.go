package pgchild

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const pidFile = dataFolder + "/postmaster.pid"

// errBusy: a postmaster still has the data directory. Worth trying again.
var errBusy = fmt.Errorf("%w by a PostgreSQL server that is not ours", ErrInUse)

// clearPredecessor finds out who used the data directory last, and returns errBusy while that runs. We
// hold the lock, so it is the postmaster of a killed parley that is still shutting down, or one that
// somebody started by hand.
//
// PostgreSQL checks this as well, but takes any live process with the recorded pid for a postmaster, and
// in a restarted container that is often one of our own threads. Where we know better, we correct the
// file. PostgreSQL's other check, for orphaned backends by their shared memory, needs the file.
func clearPredecessor(root *os.Root, run string, who account) error {
	b, err := root.ReadFile(pidFile)
	if errors.Is(err, fs.ErrNotExist) {
		return removeSockets(run)
	}
	if err != nil {
		return err
	}
	first, rest, _ := strings.Cut(string(b), "\n")
	if strings.TrimSpace(first) == "" {
		// created, never written: a power loss; or being written at this instant
		if fi, err := root.Stat(pidFile); err != nil || time.Since(fi.ModTime()) < 2*time.Second {
			return errBusy
		}
		return root.Remove(pidFile)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return fmt.Errorf("%s: %q is not a pid", pidFile, first)
	}
	data, err := root.Stat(dataFolder)
	if err != nil {
		return err
	}
	switch here, known := worksIn(pid, data); {
	case here:
		return fmt.Errorf("%w (pid %d)", errBusy, pid)
	case known:
		if err := renumber(root, rest, who); err != nil {
			return fmt.Errorf("correct %s: %w", pidFile, err)
		}
		return removeSockets(run)
	default:
		return nil // PostgreSQL decides
	}
}

// worksIn reports whether pid is a live process whose working directory is folder, as a postmaster's is
// its data directory; false with known false if that cannot be found out.
func worksIn(pid int, folder fs.FileInfo) (here, known bool) {
	if runtime.GOOS != "linux" {
		return false, false
	}
	proc := "/proc/" + strconv.Itoa(pid)
	cwd, err := os.Stat(proc + "/cwd")
	switch {
	case err == nil:
		return os.SameFile(cwd, folder), true
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH): // gone, or a zombie
		return false, true
	}
	// another account's; everybody may read its name
	name, err := os.ReadFile(proc + "/comm")
	return false, err == nil && !strings.HasPrefix(string(name), "postgres") && !strings.HasPrefix(string(name), "postmaster")
}

// renumber puts our pid into the file. PostgreSQL knows that its parent is not a postmaster, and goes on
// to its other check.
func renumber(root *os.Root, rest string, who account) error {
	side := pidFile + ".new"
	if err := root.WriteFile(side, []byte(strconv.Itoa(os.Getpid())+"\n"+rest), 0o600); err != nil {
		return err
	}
	if !who.isZero() {
		if err := root.Lchown(side, int(who.uid), int(who.gid)); err != nil {
			return err
		}
	}
	return root.Rename(side, pidFile)
}

// recordedPID returns what the pid file says, for messages.
func recordedPID(root *os.Root) string {
	b, _ := root.ReadFile(pidFile)
	first, _, _ := strings.Cut(string(b), "\n")
	return first
}

// isReady reports whether pid is the postmaster of the data directory and accepts connections. Its pid
// file says both, which a socket that answers does not.
func isReady(root *os.Root, pid int) bool {
	b, err := root.ReadFile(pidFile)
	if err != nil {
		return false
	}
	const pidLine, statusLine = 0, 7
	lines := strings.Split(string(b), "\n")
	return len(lines) > statusLine && lines[pidLine] == strconv.Itoa(pid) && strings.TrimSpace(lines[statusLine]) == "ready"
}
