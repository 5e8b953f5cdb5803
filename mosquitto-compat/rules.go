package mosquitto

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"sync"

	"github.com/parleymq/parley/chat"
)

// Rules are the gates of all listeners of a configuration.
type Rules struct {
	config *Config // the one that the server was started with
	logger *slog.Logger

	mu    sync.Mutex // one Reload at a time
	gates map[*Security]*Gate
}

// Open reads the password and ACL files that a configuration names, and adds to its
// Notes what was found: afterwards Config.Err includes the files that cannot be used.
func Open(c *Config, logger *slog.Logger) *Rules {
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	r := &Rules{config: c, logger: logger.With("component", "mosquitto"), gates: map[*Security]*Gate{}}
	for _, l := range c.Listeners {
		if r.gates[l.Security] != nil {
			continue
		}
		s, found := l.Security.read()
		c.Notes = append(c.Notes, found...)
		g := &Gate{}
		g.files.Store(s)
		r.gates[l.Security] = g
	}
	return r
}

// Gate returns the gate of one of the configuration's listeners.
func (r *Rules) Gate(l Listener) *Gate { return r.gates[l.Security] }

// Elsewhere returns the access of clients that connected through no listener of the
// configuration, such as over WebSocket on the HTTP address: the same rules, or, where
// each listener has its own (per_listener_settings), no access.
func (r *Rules) Elsewhere() chat.TopicAccess {
	if r.config.PerListener {
		closed := &Gate{}
		closed.files.Store(&contents{acl: &ACL{}})
		return closed
	}
	return r.Gate(r.config.Listeners[0])
}

// read reads the files of one Security, and notes what each contains.
func (s *Security) read() (*contents, []Note) {
	files := &contents{anonymous: s.AllowAnonymous}
	var notes []Note
	note := func(file string, line int, v Verdict, text string) {
		notes = append(notes, Note{File: file, Line: line, Verdict: v, Text: text})
	}
	if f := s.PasswordFile; f != "" {
		b, err := readFile(f, maxPasswordFile)
		if err != nil {
			note(f, 0, Refused, err.Error())
		}
		var faults []Fault
		files.passwords, faults = ParsePasswords(b)
		if err == nil {
			note(f, 0, Taken, fmt.Sprintf("password file, %d users", files.passwords.Len()))
		}
		for _, fault := range faults {
			note(f, fault.Line, Ignored, fault.Text)
		}
	}
	if f := s.ACLFile; f != "" {
		b, err := readFile(f, maxACLFile)
		var acl *ACL
		if err == nil {
			acl, err = ParseACL(b)
		}
		if err != nil {
			note(f, 0, Refused, err.Error())
			files.acl = &ACL{} // which allows nothing
			return files, notes
		}
		files.acl = acl
		note(f, 0, Taken, fmt.Sprintf("ACL file, %d rules, %d users", acl.count, len(acl.users)))
		for _, w := range acl.warnings {
			note(f, w.Line, Taken, w.Text)
		}
	}
	return files, notes
}

// Reload reads the configuration and its password and ACL files again (SIGHUP), and
// applies what is about access, all of it or, after an error, nothing. Other changes
// need a restart; they are logged. The caller then disconnects clients that are no
// longer allowed.
func (r *Rules) Reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := Load(r.config.File)
	if err == nil {
		err = c.Err()
	}
	if err != nil {
		return err
	}
	old := r.config
	if c.PerListener != old.PerListener || c.PerListener && len(c.Listeners) != len(old.Listeners) || len(c.Listeners) == 0 {
		return errors.New("per_listener_settings or the listeners have changed, which needs a restart")
	}
	if !reflect.DeepEqual(c.fixed(), old.fixed()) {
		r.logger.Warn("listeners, encryption or limits have changed in the configuration; restart to apply that", "file", c.File)
	}
	next := map[*Gate]*contents{}
	var errs []error
	for i, l := range old.Listeners {
		g := r.gates[l.Security]
		if next[g] != nil {
			continue
		}
		security := c.Listeners[min(i, len(c.Listeners)-1)].Security // without per_listener_settings, that of all
		files, notes := security.read()
		for _, n := range notes {
			if n.Verdict != Taken {
				errs = append(errs, n)
			}
		}
		next[g] = files
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for g, files := range next {
		g.files.Store(files)
	}
	return nil
}

// fixed returns the part that only a restart applies.
func (c *Config) fixed() Config {
	f := Config{MaxPacketSize: c.MaxPacketSize, MaxInflight: c.MaxInflight, SessionExpiry: c.SessionExpiry}
	for _, l := range c.Listeners {
		l.Security, l.Line = nil, 0
		f.Listeners = append(f.Listeners, l)
	}
	return f
}
