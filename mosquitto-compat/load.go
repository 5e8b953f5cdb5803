package mosquitto

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxConfigBytes = 4 << 20 // of one file
	maxConfigFiles = 1000    // in an include_dir
	maxListeners   = 100
	maxValueBytes  = 65535
)

// Load reads a configuration file and those that it includes. The error is about
// reading the file itself; what is wrong in it is in the Notes, all of it, and Err
// puts it together.
func Load(file string) (*Config, error) {
	b, err := readFile(file, maxConfigBytes)
	if err != nil {
		return nil, err
	}
	return parse(file, b), nil
}

// readFile reads a file of at most limit bytes.
func readFile(file string, limit int64) ([]byte, error) {
	fi, err := os.Stat(file)
	switch {
	case err != nil:
		return nil, err
	case fi.IsDir():
		return nil, fmt.Errorf("%s is a folder", file)
	case fi.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes, limit %d", file, fi.Size(), limit)
	}
	return os.ReadFile(file)
}

// parse reads the text of a configuration file. It never fails: see Config.Err.
func parse(file string, text []byte) *Config {
	c := &Config{File: file}
	p := &parser{config: c, global: &Security{}, seen: map[place]struct{}{}}
	p.byDefault = &draft{Listener: Listener{Security: &Security{}}}
	p.file(file, text, 0)
	p.finish()
	return c
}

// parser is the state while the lines are read.
type parser struct {
	config    *Config
	global    *Security
	byDefault *draft // set by the lines before the first listener line of a file, port and bind_address
	listeners []*draft
	perFile   reading

	securitySet bool // an option of Security has been read
	bridge      bool // a connection line has been read: bridge options may follow
	seen        map[place]struct{}
}

// reading is where a file is read; the included ones have their own. As in
// Mosquitto, an included file begins before any listener.
type reading struct {
	name  string
	line  int
	depth int // 1: it is included
	cur   *draft
}

// draft is a listener whose lines are being read.
type draft struct {
	Listener
	port      int
	host      string
	portSaid  bool
	ipVersion string // "4", "6" or ""
	tls       TLS
	tlsLine   int // of the first line about TLS
	tlsFile   string
}

// touched reports whether a line has set something of the default listener. Then there
// is one, on port 1883, as in Mosquitto.
func (d *draft) touched() bool {
	return d.MaxConnections > 0 || d.WebSocket || d.ipVersion != "" || d.NameIsClientID || d.NameFromCertificate || d.tlsLine > 0 ||
		d.Security.PasswordFile != "" || d.Security.NoEmptyClientID
}

// place is an option of one listener, or of all.
type place struct {
	owner  any
	option string
}

// lines calls f for each line, without its end.
func lines(text []byte, f func(n int, line []byte)) {
	for n := 1; len(text) > 0; n++ {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		f(n, bytes.TrimRight(line, "\r"))
		text = rest
	}
}

func (p *parser) file(name string, text []byte, depth int) {
	outer := p.perFile
	p.perFile = reading{name: name, depth: depth, cur: p.byDefault}
	lines(text, func(n int, line []byte) {
		p.perFile.line = n
		if len(line) > 0 && line[0] != '#' {
			p.line(string(line))
		}
	})
	p.perFile = outer
}

// line parses one line: words are separated by spaces, and by nothing else.
func (p *parser) line(line string) {
	name, value, _ := strings.Cut(strings.TrimLeft(line, " "), " ")
	if name == "" {
		return
	}
	n := Note{File: p.perFile.name, Line: p.perFile.line, Option: name, Value: strings.TrimSpace(value)}
	o, known := options[name]
	if !known {
		o, known = optionByPrefix(name)
	}
	if o.secret && n.Value != "" {
		n.Value = "…"
	}
	switch {
	case strings.ContainsRune(line, 0) || !utf8.ValidString(line):
		n.Option, n.Value = strings.ToValidUTF8(name, "?"), ""
		n.Verdict, n.Text = Refused, "the line is not UTF-8 without NUL"
	case !known:
		n.Option = clip(name)
		n.Verdict, n.Text = Refused, "there is no such option"
		if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == '\ufeff' }) {
			n.Text += ": the line begins with invisible characters (a tab, a byte order mark); only spaces may precede an option"
		} else if name[0] == '#' {
			n.Text += ": comments begin in the first column"
		}
	case len(value) > maxValueBytes:
		n.Value = ""
		n.Verdict, n.Text = Refused, fmt.Sprintf("the value has %d bytes, limit %d", len(value), maxValueBytes)
	default:
		at := len(p.config.Notes)
		p.config.Notes = append(p.config.Notes, n) // before the notes of files that it includes
		verdict, text := p.take(o, name, value)
		p.config.Notes[at].Verdict, p.config.Notes[at].Text = verdict, text
		return
	}
	p.config.Notes = append(p.config.Notes, n)
}

func clip(s string) string {
	if len(s) > 60 {
		s = strings.ToValidUTF8(s[:60], "") + "…"
	}
	return s
}

// take applies a known option.
func (p *parser) take(o option, name, raw string) (Verdict, string) {
	if o.bridge && !p.bridge {
		return Refused, "belongs to a bridge, but no connection line precedes it"
	}
	v := value{name: name, text: strings.TrimSpace(raw)}
	var err error
	switch o.kind {
	case flag:
		v.text, err = oneWord(v.text)
		switch v.text {
		case "true", "1":
			v.flag = true
		case "false", "0":
		default:
			err = cmp.Or(err, fmt.Errorf("is %q: want true or false", v.text))
		}
	case number:
		if v.text, err = oneWord(v.text); err == nil {
			if v.number, err = strconv.Atoi(v.text); err != nil {
				err = fmt.Errorf("is %q: want a whole number", v.text)
			} else if o.max > 0 && (v.number < o.min || v.number > o.max) {
				err = fmt.Errorf("is %d: want %d to %d", v.number, o.min, o.max)
			}
		}
	case word:
		v.text, err = oneWord(v.text)
		if len(o.want) > 0 && !slices.Contains(o.want, v.text) {
			err = cmp.Or(err, fmt.Errorf("is %q: want %s", v.text, strings.Join(o.want, " or ")))
		}
	case text:
		if strings.ContainsFunc(v.text, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }) {
			err = errors.New("the value holds control characters")
		}
		key := place{nil, name}
		switch o.scope {
		case ofListener:
			key.owner = p.perFile.cur
		case ofSecurity:
			key.owner = p.security()
		}
		if _, twice := p.seen[key]; twice && !o.bridge && name != "include_dir" {
			err = errors.New("is set twice")
		}
		p.seen[key] = struct{}{}
	}
	switch {
	case v.text == "" && o.kind != rest:
		return Refused, "has no value"
	case err != nil:
		return Refused, err.Error()
	}
	if o.scope == ofSecurity {
		p.securitySet = true
	}
	return o.take(p, v)
}

// oneWord returns the first word. Only a comment may follow: Mosquitto ignores whatever
// does, which whoever wrote it will not expect.
func oneWord(s string) (string, error) {
	w, after, _ := strings.Cut(s, " ")
	if after = strings.TrimSpace(after); after != "" && after[0] != '#' {
		return w, fmt.Errorf("takes one value, but %q follows it", after)
	}
	return w, nil
}

// security returns the Security that the current line belongs to.
func (p *parser) security() *Security {
	if p.config.PerListener {
		return p.perFile.cur.Security
	}
	return p.global
}

func (p *parser) note(file string, line int, option string, v Verdict, text string) {
	p.config.Notes = append(p.config.Notes, Note{File: file, Line: line, Option: option, Verdict: v, Text: text})
}

// include reads the files of a folder whose names end in .conf, in the order of their
// names, ignoring case.
func (p *parser) include(dir string) (Verdict, string) {
	if p.perFile.depth > 0 {
		return Ignored, "included files include no others, as in Mosquitto"
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Refused, err.Error()
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); len(n) > len(".conf") && strings.HasSuffix(n, ".conf") {
			names = append(names, n)
		}
	}
	if len(names) > maxConfigFiles {
		return Refused, fmt.Sprintf("holds %d files, limit %d", len(names), maxConfigFiles)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(strings.Compare(strings.ToUpper(a), strings.ToUpper(b)), strings.Compare(a, b))
	})
	verdict, text := Taken, fmt.Sprintf("%d files", len(names))
	for _, n := range names {
		file := filepath.Join(dir, n)
		b, err := readFile(file, maxConfigBytes)
		if err != nil {
			verdict, text = Refused, err.Error()
			continue
		}
		p.file(file, b, 1)
	}
	return verdict, text
}

// finish makes the listeners, and checks what no single line shows.
func (p *parser) finish() {
	c := p.config
	d := p.byDefault
	said := len(p.listeners) > 0 || d.portSaid
	if d.portSaid || d.touched() {
		if d.port == 0 {
			d.port = 1883
		}
		if !d.portSaid {
			p.note(c.File, 0, "", Changed, "lines before the first listener configure the default listener, so it is opened: port 1883 on all addresses, as in Mosquitto")
		}
		p.listeners = append(p.listeners, d)
		said = true
	}
	if !said {
		p.listeners = []*draft{{host: "127.0.0.1", port: 1883}, {host: "::1", port: 1883, Listener: Listener{Optional: true}}}
		for _, l := range p.listeners {
			l.Security = d.Security
		}
		p.note(c.File, 0, "", Taken, "no listener, port or bind_address: listening on 127.0.0.1:1883 and [::1]:1883 only, with anonymous clients unless allow_anonymous is false, as in Mosquitto")
	}
	if len(p.listeners) > maxListeners {
		p.note(c.File, 0, "", Refused, fmt.Sprintf("there are %d listeners, limit %d", len(p.listeners), maxListeners))
		p.listeners = p.listeners[:maxListeners]
	}
	settle(p.global, !said)
	for _, l := range p.listeners {
		if c.PerListener {
			settle(l.Security, !said)
		} else {
			l.Security = p.global
		}
		if l.Network != "unix" {
			l.Network = "tcp" + l.ipVersion
			l.Address = net.JoinHostPort(l.host, strconv.Itoa(l.port))
		}
		p.encryption(l)
		c.Listeners = append(c.Listeners, l.Listener)
	}
}

// settle decides whether anonymous clients may connect, where no line does.
func settle(s *Security, local bool) {
	s.AllowAnonymous = local
	if s.anonymous != nil {
		s.AllowAnonymous = *s.anonymous
	}
}

// encryption checks that TLS is either complete or absent: an incomplete configuration,
// which Mosquitto 2.0.11 silently takes for an unencrypted listener, is refused.
func (p *parser) encryption(l *draft) {
	t := l.tls
	needsCA := ""
	if t.CAFile == "" && t.CAPath == "" && t.RequireClient {
		needsCA = "require_certificate"
	} else if t.CAFile == "" && t.CAPath == "" && l.NameFromCertificate {
		needsCA = "use_identity_as_username"
	}
	switch {
	case l.tlsLine == 0 && !l.NameFromCertificate:
		return
	case t.CertFile == "" || t.KeyFile == "":
		p.note(l.tlsFile, l.tlsLine, "", Refused, "TLS needs both certfile and keyfile for this listener")
	case needsCA != "":
		p.note(l.tlsFile, l.tlsLine, needsCA, Refused, "needs cafile or capath, the authorities that sign client certificates")
	}
	l.TLS = &t
}
