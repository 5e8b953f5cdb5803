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

// An account is who the server runs as when we are root. The zero account stands for "as we are".
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
func accountFor(data, name string) (account, error) {
	if !isRoot() {
		return account{}, nil
	}
	if fi, err := os.Lstat(data); err == nil {
		if uid, gid := ownerOf(fi); uid != 0 {
			a := account{name: strconv.Itoa(int(uid)), uid: uid, gid: gid}
			if u, err := user.LookupId(a.name); err == nil {
				return parseAccount(u)
			}
			return a, nil
		}
	}
	names := []string{"postgres", "_postgres", "nobody"}
	if name != "" {
		names = []string{name}
	}
	for _, n := range names {
		if u, err := user.Lookup(n); err == nil {
			return parseAccount(u)
		}
	}
	return account{}, fmt.Errorf("PostgreSQL does not run as root and there is no account %q to run it under", names)
}

func parseAccount(u *user.User) (account, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("account %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("account %s: %w", u.Username, err)
	}
	if uid == 0 {
		return account{}, fmt.Errorf("account %s is root, as which PostgreSQL does not run", u.Username)
	}
	return account{name: u.Username, uid: uint32(uid), gid: uint32(gid)}, nil
}

func ownerOf(fi fs.FileInfo) (uid, gid uint32) {
	st := fi.Sys().(*syscall.Stat_t)
	return st.Uid, st.Gid
}

// give makes a the owner of folder and all in it, if root owns it now, as after a restore from a backup.
// The folder itself comes last: until then a repetition starts over. Links are not followed.
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
