package pgchild

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// An account is what the server runs under when we are root. The zero account stands for our own.
type account struct {
	name     string
	uid, gid uint32
}

func (a account) isZero() bool { return a.uid == 0 }

func (a account) credential() *syscall.Credential {
	if a.isZero() {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// accountFor returns the account for a server on data. An existing directory decides: PostgreSQL insists
// on owning it, and so an ordinary user's stays usable by that user after root has opened it once.
func accountFor(data string) (account, error) {
	if !isRoot() {
		return account{}, nil
	}
	if fi, err := os.Lstat(data); err == nil {
		if uid, gid := ownerOf(fi); uid != 0 {
			return account{name: "user " + strconv.Itoa(int(uid)), uid: uid, gid: gid}, nil
		}
	}
	names := []string{"postgres", "_postgres", "nobody"}
	for _, n := range names {
		u, err := user.Lookup(n)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil && uid != 0 {
			return account{name: n, uid: uint32(uid), gid: uint32(gid)}, nil
		}
	}
	return account{}, fmt.Errorf("PostgreSQL does not run as root, and none of the accounts %q exists to run it under", names)
}

func ownerOf(fi fs.FileInfo) (uid, gid uint32) {
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

// give makes a the owner of folder and everything in it, if root owns it now, as after a restore from a
// backup. The folder itself comes last, so that an interrupted give is repeated. Links are not followed.
func (a account) give(root *os.Root, folder string) error {
	if a.isZero() {
		return nil
	}
	fi, err := root.Lstat(folder)
	if err != nil {
		return err
	}
	if uid, _ := ownerOf(fi); uid != 0 {
		return nil
	}
	err = fs.WalkDir(root.FS(), filepath.ToSlash(folder), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		return root.Lchown(path, int(a.uid), int(a.gid))
	})
	if err != nil {
		return fmt.Errorf("give %s to %s: %w", folder, a.name, err)
	}
	return root.Lchown(folder, int(a.uid), int(a.gid))
}
