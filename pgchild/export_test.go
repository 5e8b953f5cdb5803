package pgchild

import (
	"os"
	"time"
)

// SetQuitTimeout shortens the wait before SIGKILL. Before any Server is made.
func SetQuitTimeout(d time.Duration) { quitTimeout = d }

func (s *Server) Account() (uid, gid int) {
	if s.who.isZero() {
		return os.Geteuid(), os.Getegid()
	}
	return int(s.who.uid), int(s.who.gid)
}

// SetTimeouts changes what Start and Stop wait for. Before Start.
func (s *Server) SetTimeouts(lock, stop time.Duration) { s.lockTimeout, s.stopTimeout = lock, stop }

// Version returns the version of the server binaries, such as "15.14".
func (s *Server) Version() string { return s.bin.version }

func (s *Server) RunDir() string { return s.run }
func (s *Server) Dir() string    { return s.opts.Dir }

// Choose is choose over bare majors; 0 if there is none.
func Choose(major int, installed ...int) int {
	var all []installation
	for _, m := range installed {
		all = append(all, installation{major: m})
	}
	in, _ := choose(all, major)
	return in.major
}

// RotateLog is rotateLog on a folder.
func RotateLog(dir string, limit int64) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return rotateLog(root, limit)
}

// Started reports whether a Start has begun and not failed.
func (s *Server) Started() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done != nil
}
