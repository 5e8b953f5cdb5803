package pgchild

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"
)

const (
	superuser = "parley" // the role that owns the cluster, as which we connect
	database  = "parley"

	sideFolder = dataFolder + ".new-" // begins the names of unfinished clusters
)

// makeCluster makes the data directory under another name and renames it in one step, so that a crash at
// any time leaves either nothing or a whole one, flushed to disk.
func (s *Server) makeCluster(ctx context.Context, root *os.Root) error {
	side := sideFolder + rand.Text()
	if err := root.Mkdir(side, 0o700); err != nil {
		return err
	}
	if err := s.initdb(ctx, root, side); err != nil {
		_ = root.RemoveAll(side) // if this fails, the next start does it
		return err
	}
	if err := root.Rename(side, dataFolder); err != nil {
		return err
	}
	folder, err := root.Open(".")
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync() // from here the cluster survives a power loss
}

func (s *Server) initdb(ctx context.Context, root *os.Root, side string) error {
	if err := s.who.give(root, side); err != nil {
		return err
	}
	folder, err := root.Open(side)
	if err != nil {
		return err
	}
	defer folder.Close()
	cmd := func() *exec.Cmd {
		cmd := s.command("initdb")
		cmd.Args = append(cmd.Args, "-D", s.lend(cmd, folder, filepath.Join(s.opts.Dir, side)),
			"--username="+superuser, "--encoding=UTF8", "--no-locale", "--data-checksums",
			"--auth-local=trust", "--auth-host=reject", "--no-instructions")
		if slices.Contains(s.opts.Settings, "fsync=off") {
			cmd.Args = append(cmd.Args, "--no-sync")
		}
		return cmd
	}
	out, err := s.runInitdb(ctx, cmd())
	if err != nil && nameless(out) {
		named := cmd()
		remove, nameErr := lendName(named, root, s.opts.Dir)
		if nameErr != nil {
			return nameErr
		}
		defer remove()
		out, err = s.runInitdb(ctx, named)
	}
	if err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, bytes.TrimSpace(out))
	}
	return nil
}

// runInitdb runs initdb to its end and returns what it printed.
func (s *Server) runInitdb(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // for a pipe held open by a killed program's children
	c, err := spawn(cmd, s.who.credential(), syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.exited:
		return out.Bytes(), c.err
	case <-ctx.Done():
		_ = syscall.Kill(-c.pid(), syscall.SIGKILL) // it and the servers it runs
		<-c.exited
		return nil, context.Cause(ctx)
	}
}

// removeSideFolders clears what an interrupted makeCluster left. It only saves space, so errors do not
// matter.
func removeSideFolders(root *os.Root) {
	names, _ := fs.Glob(root.FS(), sideFolder+"*")
	for _, n := range names {
		_ = root.RemoveAll(n)
	}
}

// command prepares a program of the installation: no terminal, no PG* variables, messages in English.
func (s *Server) command(name string) *exec.Cmd {
	cmd := exec.Command(s.bin.program(name))
	cmd.Dir = "/" // our working directory may be closed to the server's account
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	for _, name := range []string{"LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	return cmd
}

// lend returns the name by which cmd finds the open folder at path. An account that perhaps cannot walk
// there gets the descriptor instead, on Linux; the server's own children inherit it, and so the name.
func (s *Server) lend(cmd *exec.Cmd, folder *os.File, path string) string {
	if s.who.isZero() || runtime.GOOS != "linux" {
		return path
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, folder)
	return fmt.Sprintf("/proc/self/fd/%d", 2+len(cmd.ExtraFiles))
}
