package pgchild

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Names below Options.Dir.
const (
	dataFolder = "data"
	runFolder  = "run"
)

const port = "5432" // only part of the socket's name

// runDirFor returns the folder of the socket: dir/run, or where that cannot be a socket's address a
// short one below the temp directory, which is always the same for dir.
func runDirFor(dir string) string {
	run := filepath.Join(dir, runFolder)
	if addressable(run) {
		return run
	}
	sum := sha256.Sum256([]byte(dir))
	name := fmt.Sprintf("parley-%d-%s", os.Geteuid(), hex.EncodeToString(sum[:8]))
	if short := filepath.Join(os.TempDir(), name); addressable(short) {
		return short
	}
	return filepath.Join("/tmp", name)
}

// addressable reports whether a socket in run has a usable address: sun_path has 104 bytes on BSD and
// macOS, 108 on Linux, both with the final NUL; server and client split lists at commas and know quotes. It needs no escapes in a DSN.
func addressable(run string) bool {
	return len(filepath.Join(run, ".s.PGSQL."+port)) < 104 && !strings.ContainsAny(run, `,"'\`) && strings.TrimSpace(run) == run
}

// makeRunDir makes the socket's folder, which only the server's account and root can open.
func makeRunDir(run string, who account) error {
	err := os.Mkdir(run, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// from here on by descriptor: in a shared temp directory somebody else may change what the name means
	parent, err := os.OpenRoot(filepath.Dir(run))
	if err != nil {
		return err
	}
	defer parent.Close()
	fi, err := parent.Lstat(filepath.Base(run))
	if err != nil {
		return err
	}
	uid, _ := ownerOf(fi)
	if !fi.IsDir() || uid != uint32(os.Geteuid()) && uid != who.uid {
		return fmt.Errorf("%s, the folder of the database socket, belongs to somebody else: remove it", run)
	}
	dir, err := parent.Open(filepath.Base(run))
	if err != nil {
		return err
	}
	defer dir.Close()
	if now, err := dir.Stat(); err != nil || !os.SameFile(fi, now) {
		return fmt.Errorf("%s was replaced during the start: %w", run, errors.Join(err, fs.ErrInvalid))
	}
	if !who.isZero() {
		if err := dir.Chown(int(who.uid), int(who.gid)); err != nil {
			return fmt.Errorf("give %s to %s: %w", run, who.name, err)
		}
	}
	return dir.Chmod(0o700)
}

// removeSockets takes away the socket and its lock left by a server that is known to be gone. The lock
// names a pid, which by now may be anybody's.
func removeSockets(run string) error {
	socket := filepath.Join(run, ".s.PGSQL."+port)
	for _, name := range []string{socket, socket + ".lock"} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
