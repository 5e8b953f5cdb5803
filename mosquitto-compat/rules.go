package mosquitto

import (
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

// Open reads the password and ACL files that a configuration names, and notes in it
// what was found: Config.Err knows afterwards of files that cannot be used, too.
func Open(c *Config, logger *slog.Logger) *Rules {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	r := &Rules{config: c, logger: logger.With("component", "mosquitto"), gates: map[*Security]*Gate{}}
	hashing := newTurns()
	for _, l := range c.Listeners {
		if r.gates[l.Security] != nil {
			continue
		}
		s, found := l.Security.read()
		c.Notes = append(c.Notes, found...)
		g := &Gate{hashing: hashing}
		g.says.Store(s)
		r.gates[l.Security] = g
	}
	return r
}

// Gate returns the gate of one of the configuration's listeners.
func (r *Rules) Gate(l Listener) *Gate { return r.gates[l.Security] }

// Elsewhere returns who may use device topics that has come by no listener of the
// configuration, such as over WebSocket on the HTTP address: the same rules, or, where
// each listener has its own (per_listener_settings), nobody.
func (r *Rules) Elsewhere() chat.TopicAccess {
	if r.config.PerListener {
		closed := &Gate{}
		closed.says.Store(&saying{acl: &ACL{}})
		return closed
	}
	return r.Gate(r.config.Listeners[0])
}

// read reads the files of one Security, and says of each what was found.
func (s *Security) read() (*saying, []Note) {
	says := &saying{anonymous: s.AllowAnonymous}
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
		says.passwords, faults = ParsePasswords(b)
		if err == nil {
			note(f, 0, Taken, fmt.Sprintf("password file, %d users", says.passwords.Len()))
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
			says.acl = &ACL{} // which allows nothing
			return says, notes
		}
		says.acl = acl
		note(f, 0, Taken, fmt.Sprintf("ACL file, %d rules, %d users", acl.count, len(acl.users)))
		for _, w := range acl.warnings {
			note(f, w.Line, Taken, w.Text)
		}
	}
	return says, notes
}

// Reload reads the configuration and its password and ACL files again (SIGHUP). All
// of it is taken or nothing: after an error everything stays as it was. What is not
// about who may come in and what for, takes a restart; it is logged where it has
// changed. The caller disconnects those who are not let in any more.
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
		return errors.New("per_listener_settings or the listeners have changed, which takes a restart")
	}
	if !reflect.DeepEqual(c.fixed(), old.fixed()) {
		r.logger.Warn("the configuration has changed in what takes a restart: listeners, encryption, limits", "file", c.File)
	}
	next := map[*Gate]*saying{}
	var errs []error
	for i, l := range old.Listeners {
		g := r.gates[l.Security]
		if next[g] != nil {
			continue
		}
		security := c.Listeners[min(i, len(c.Listeners)-1)].Security // without per_listener_settings, that of all
		says, notes := security.read()
		for _, n := range notes {
			switch {
			case n.Verdict == Taken:
			case n.Line > 0:
				errs = append(errs, fmt.Errorf("%s:%d: %s", n.File, n.Line, n.Text))
			default:
				errs = append(errs, fmt.Errorf("%s: %s", n.File, n.Text))
			}
		}
		next[g] = says
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for g, says := range next {
		g.says.Store(says)
	}
	return nil
}

// fixed returns what takes a restart.
func (c *Config) fixed() Config {
	f := Config{MaxPacketSize: c.MaxPacketSize, MaxInflight: c.MaxInflight, SessionExpiry: c.SessionExpiry}
	for _, l := range c.Listeners {
		l.Security, l.Line = nil, 0
		f.Listeners = append(f.Listeners, l)
	}
	return f
}
