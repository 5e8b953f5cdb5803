package pgchild

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// initdb asks for the name of the account that it runs under, although it is given another one for the
// superuser. A container that was started with any uid has no such name. Then a library of the Samba
// project's, nss_wrapper, can supply it; it comes with PostgreSQL's images.

// wrapperPlaces are where packages put that library, as glob patterns.
var wrapperPlaces = []string{"/usr/lib/*/libnss_wrapper.so", "/usr/lib64/libnss_wrapper.so", "/usr/lib/libnss_wrapper.so"}

// nameless reports whether initdb failed because the account has no name.
func nameless(output []byte) bool {
	return bytes.Contains(output, []byte("could not look up effective user ID"))
}

// lendName has cmd find a name for our account. remove removes the files that it reads.
func lendName(cmd *exec.Cmd, root *os.Root, dir string) (remove func(), err error) {
	var library string
	for _, place := range wrapperPlaces {
		if found, _ := filepath.Glob(place); len(found) > 0 { // fails only for a malformed pattern
			library = found[0]
			break
		}
	}
	uid, gid := os.Geteuid(), os.Getegid()
	if library == "" {
		return nil, fmt.Errorf("initdb needs a name for uid %d, and there is none: run with a uid that /etc/passwd has, add a line for this one "+
			"(parley:x:%d:%d::/:/bin/false), install libnss-wrapper (\"apt install libnss-wrapper\", \"dnf install nss_wrapper\"), "+
			"or set DATABASE_URL to use a server that runs elsewhere", uid, uid, gid)
	}
	side := sideFolder + "names-" + rand.Text() // as those of unfinished clusters, the next start removes it
	remove = func() { _ = root.RemoveAll(side) }
	err = errors.Join(
		root.Mkdir(side, 0o700),
		root.WriteFile(filepath.Join(side, "passwd"), fmt.Appendf(nil, "%s:x:%d:%d::/:/bin/false\n", superuser, uid, gid), 0o600),
		root.WriteFile(filepath.Join(side, "group"), fmt.Appendf(nil, "%s:x:%d:\n", superuser, gid), 0o600),
	)
	if err != nil {
		remove()
		return nil, err
	}
	cmd.Env = append(cmd.Env, "LD_PRELOAD="+library,
		"NSS_WRAPPER_PASSWD="+filepath.Join(dir, side, "passwd"), "NSS_WRAPPER_GROUP="+filepath.Join(dir, side, "group"))
	return remove, nil
}
