package pgchild

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// worksIn reports whether pid is a live process whose working directory is folder, as a postmaster's is
// its data directory.
func worksIn(pid int, folder fs.FileInfo) answer {
	cwd, err := os.Stat("/proc/" + strconv.Itoa(pid) + "/cwd")
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH): // gone, or a zombie
		return no
	case err != nil: // another account's; its name is for everybody to see
		name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
		if err == nil && !strings.HasPrefix(string(name), "postgres") && !strings.HasPrefix(string(name), "postmaster") {
			return no
		}
		return unknown
	case os.SameFile(cwd, folder):
		return yes
	default:
		return no
	}
}
