package mosquitto

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"
)

// Config is a mosquitto.conf, as far as Parley implements it. Notes has a verdict on
// each line.
type Config struct {
	File      string     // the name it was loaded by
	Listeners []Listener // in the order of the file; the default one last

	MaxPacketSize int           // bytes; 0: Parley's default
	MaxInflight   int           // publishes that a client may have unacknowledged; 0: Parley's default
	SessionExpiry time.Duration // how long a session is kept at most; 0: Parley's default
	PerListener   bool          // each listener has its own Security; else they share one
	Notes         []Note        // one for each line but comments, and those about a file as a whole
}

// Listener is one listener of the configuration.
type Listener struct {
	Line    int    // where it begins; 0: the default one
	Network string // "tcp", "tcp4", "tcp6", or "unix"
	Address string // host:port, or the path of the socket
	WebSocket,
	Optional bool // the loopback of IPv6, which not every machine has
	MaxConnections      int      // 0: no limit
	Origins             []string // websockets_origin; empty: any
	TLS                 *TLS     // nil: not encrypted
	NameFromCertificate bool     // use_identity_as_username
	NameIsClientID      bool     // use_username_as_clientid
	Security            *Security
}

// TLS is a listener's encryption: names of PEM files, and bounds.
type TLS struct {
	CertFile, KeyFile string
	CAFile, CAPath    string // authorities of client certificates
	RequireClient     bool
	MinVersion        uint16   // of crypto/tls; 0: 1.2
	CipherSuites      []uint16 // of TLS 1.2; empty: Go's choice
}

// Security is who may connect, and what they may do.
type Security struct {
	PasswordFile    string // empty: none
	ACLFile         string // empty: everything is allowed to everybody
	AllowAnonymous  bool
	NoEmptyClientID bool // allow_zero_length_clientid false

	anonymous *bool // allow_anonymous; nil: no such line
}

// Verdict is what Parley does with a line.
type Verdict int

// The verdicts.
const (
	Taken   Verdict = iota // done as Mosquitto does it
	Changed                // done, with a difference that Text names
	Ignored                // not done, but the server starts: Text says why
	Refused                // the server does not start: Text says why, and what to do
)

// String returns the verdict in a word.
func (v Verdict) String() string {
	return [...]string{"taken", "taken, but", "ignored", "refused"}[v]
}

// Note is the verdict on one line.
type Note struct {
	File    string
	Line    int    // 0: it is about the file as a whole
	Option  string // the first word
	Value   string // the rest; secrets are left out
	Verdict Verdict
	Text    string // what it was taken for, or why it was not
}

// Error implements error: file, line, option and text.
func (n Note) Error() string {
	where := n.File
	if n.Line > 0 {
		where = fmt.Sprintf("%s:%d", n.File, n.Line)
	}
	if n.Option != "" {
		where += ": " + n.Option
	}
	return where + ": " + n.Text
}

// Err returns every Note that is Refused, which keeps the server from starting, or nil.
func (c *Config) Err() error {
	var errs []error
	for _, n := range c.Notes {
		if n.Verdict == Refused {
			errs = append(errs, n)
		}
	}
	return errors.Join(errs...)
}

// cipherSuites are Go's suites of TLS 1.2 by OpenSSL's names.
var cipherSuites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}
