package pgchild

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"time"
)

const ephemeralPrefix = "parley-ephemeral-"

// ephemeralDir names a folder that does not exist yet.
func ephemeralDir() string { return filepath.Join(os.TempDir(), ephemeralPrefix+randomName()) }

func randomName() string { return rand.Text()[:12] }

// sweepEphemeral removes what killed test runs left. One in use has its lock taken; one about to be used
// is younger than age.
func sweepEphemeral(age time.Duration) {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), ephemeralPrefix+"*")) // fails only for a malformed pattern
	for _, d := range dirs {
		fi, err := os.Lstat(d)
		if err != nil || !fi.IsDir() || time.Since(fi.ModTime()) < age {
			continue
		}
		if uid, _ := ownerOf(fi); uid != uint32(os.Geteuid()) {
			continue
		}
		sweepOne(d)
	}
}

func sweepOne(dir string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return
	}
	defer root.Close()
	lock, err := takeLock(context.Background(), root, 0)
	if err != nil {
		return
	}
	defer lock.Close()
	_ = os.RemoveAll(dir) // a leftover of a leftover is tried again next time
}
