package pgchild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Major versions we know. Older ones are not used; newer ones only if there is nothing else, or the data
// directory was made by one.
const (
	oldestMajor = 14
	newestMajor = 18
)

// binPlaces are where packages put the server, as glob patterns.
var binPlaces = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // RHEL and Fedora with the PGDG packages
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on Apple silicon
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app; "latest" there is a link
}

// An installation is one set of server binaries.
type installation struct {
	dir     string
	major   int
	version string // as printed, "15.14"
}

func (i installation) program(name string) string { return filepath.Join(i.dir, name) }

// find returns the installation to use for a data directory made by major, or for a new one if major is 0.
// With binDir only that folder is considered.
func find(binDir, data string, major int) (installation, error) {
	var all []installation
	if binDir != "" {
		in, err := inspect(binDir)
		if err != nil {
			return installation{}, fmt.Errorf("%w in %s: %w", ErrNotInstalled, binDir, err)
		}
		all = append(all, in)
	} else {
		all = installed()
	}
	if len(all) == 0 {
		return installation{}, fmt.Errorf("%w (looked in %s and PATH): install one, for example with "+
			"\"apt install postgresql\", \"dnf install postgresql-server\" or \"brew install postgresql@17\", "+
			"or set DATABASE_URL to use a server that runs elsewhere", ErrNotInstalled, strings.Join(binPlaces, ", "))
	}
	in, ok := choose(all, major)
	switch {
	case ok:
		return in, nil
	case major == 0:
		return installation{}, fmt.Errorf("%w that is new enough: found %s, need %d or newer (\"apt install postgresql\"), "+
			"or set DATABASE_URL to use a server that runs elsewhere", ErrNotInstalled, versions(all), oldestMajor)
	default:
		return installation{}, fmt.Errorf("%w: %s was made by PostgreSQL %d, but installed is %s. Install that version "+
			"(\"apt install postgresql-%d\"), or convert the directory with pg_upgrade, or start with an empty one",
			ErrWrongVersion, data, major, versions(all), major)
	}
}

// choose picks from all the one for major; for 0 the newest we know, else the newest there is.
func choose(all []installation, major int) (installation, bool) {
	usable := slices.DeleteFunc(slices.Clone(all), func(in installation) bool {
		return in.major != major && (major != 0 || in.major < oldestMajor)
	})
	if len(usable) == 0 {
		return installation{}, false
	}
	rank := func(in installation) int {
		if in.major > newestMajor {
			return in.major - 1000 // after all that we know
		}
		return in.major
	}
	return slices.MaxFunc(usable, func(a, b installation) int { return rank(a) - rank(b) }), true
}

// installed lists what is found in the usual places and on PATH.
func installed() []installation {
	var dirs []string
	for _, p := range binPlaces {
		m, _ := filepath.Glob(p) // fails only for a malformed pattern
		dirs = append(dirs, m...)
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			p = real
		}
		dirs = append(dirs, filepath.Dir(p))
	}
	var all []installation
	for _, d := range dirs {
		if slices.ContainsFunc(all, func(in installation) bool { return in.dir == d }) {
			continue
		}
		if in, err := inspect(d); err == nil {
			all = append(all, in)
		}
	}
	return all
}

var versionText = regexp.MustCompile(`\(PostgreSQL\) ((\d+)\S*)`)

// inspect asks the binaries in dir for their version. Runs a program for some milliseconds.
func inspect(dir string) (installation, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return installation{}, err
	}
	in := installation{dir: dir}
	if _, err := os.Stat(in.program("initdb")); err != nil {
		return in, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, in.program("postgres"), "--version").Output()
	if err != nil {
		return in, fmt.Errorf("run %s: %w", in.program("postgres"), err)
	}
	m := versionText.FindSubmatch(out)
	if m == nil {
		return in, fmt.Errorf("%s says %q, not a version", in.program("postgres"), out)
	}
	in.version = string(m[1])
	in.major, err = strconv.Atoi(string(m[2]))
	return in, err
}

func versions(all []installation) string {
	var s []string
	for _, in := range all {
		s = append(s, in.version+" in "+in.dir)
	}
	return strings.Join(s, ", ")
}

// madeBy returns the major version that made the data directory, 0 if there is none yet.
func madeBy(data string) (int, error) {
	b, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) {
			return 0, nil
		}
		return 0, fmt.Errorf("%s exists but is not a PostgreSQL data directory (no PG_VERSION): move it away", data)
	case errors.Is(err, fs.ErrPermission):
		return 0, fmt.Errorf("the data directory belongs to another account: run as its owner, or chown it: %w", err)
	case err != nil:
		return 0, err
	}
	// "15"; before version 10 "9.6", which counts as 9
	text, _, _ := strings.Cut(strings.TrimSpace(string(b)), ".")
	major, err := strconv.Atoi(text)
	if err != nil || major <= 0 {
		return 0, fmt.Errorf("%s: %q is not a version", filepath.Join(data, "PG_VERSION"), b)
	}
	return major, nil
}
