package mosquitto

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxPasswordFile = 64 << 20 // bytes
	maxIterations   = 1_000_000
	maxNameBytes    = 65535
	saltBytes       = 12
	hashBytes       = 64
)

// Passwords is the contents of a password file, as mosquitto_passwd writes it: user
// names with the hashes of their passwords.
type Passwords struct {
	users map[string]*credential
}

// credential is the hash of one user's password: SHA-512 of password and salt ($6$),
// or PBKDF2 with HMAC-SHA-512 ($7$).
type credential struct {
	iterations int // of PBKDF2; 0: it is $6$
	salt       [saltBytes]byte
	hash       [hashBytes]byte
}

// Fault is a line of a file that Mosquitto skips with a warning.
type Fault struct {
	Line int
	Text string
}

// Error implements error.
func (f Fault) Error() string { return fmt.Sprintf("line %d: %s", f.Line, f.Text) }

// ParsePasswords reads a password file: a line is name:hash. It never fails: a malformed
// line is left out, so that its user cannot log in, and is among the faults, as in
// Mosquitto. Lines without a colon, and those that begin with #, are comments. Of two
// lines about one name the later counts.
func ParsePasswords(text []byte) (*Passwords, []Fault) {
	p := &Passwords{users: map[string]*credential{}}
	var faults []Fault
	lines(text, func(n int, line []byte) {
		if len(line) == 0 || line[0] == '#' || !bytes.ContainsRune(line, ':') {
			return
		}
		name, c, err := parseEntry(string(line))
		if err == nil && p.users[name] != nil {
			err = fmt.Errorf("%q is in the file twice: this line counts", clip(name))
		}
		if err != nil {
			faults = append(faults, Fault{n, err.Error()})
		}
		if c != nil {
			p.users[name] = c
		}
	})
	return p, faults
}

// Len returns how many users there are.
func (p *Passwords) Len() int { return len(p.users) }

// parseEntry reads a line. Colons at its beginning are skipped, and so is what follows
// the second word: Mosquitto takes words between colons.
func parseEntry(line string) (string, *credential, error) {
	parts := strings.FieldsFunc(line, func(r rune) bool { return r == ':' })
	if len(parts) < 2 {
		return "", nil, errors.New("there is a name and no hash")
	}
	name, hash := trimBlanks(parts[0]), trimBlanks(parts[1])
	switch {
	case name == "":
		return "", nil, errors.New("the name is empty")
	case len(name) > maxNameBytes || len(hash) > maxNameBytes:
		return "", nil, fmt.Errorf("name or hash has more than %d bytes", maxNameBytes)
	case strings.ContainsRune(line, 0):
		return "", nil, errors.New("the line holds NUL")
	}
	c, err := parseHash(hash)
	if err != nil {
		return "", nil, fmt.Errorf("user %q: %w", clip(name), err)
	}
	return name, c, nil
}

func parseHash(s string) (*credential, error) {
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == '$' })
	c := &credential{}
	switch {
	case len(parts) < 1 || parts[0] != "6" && parts[0] != "7":
		return nil, errors.New("the hash is neither $6$ nor $7$, which mosquitto_passwd of Mosquitto 2.0 writes; plain-text passwords are not accepted")
	case parts[0] == "7":
		if len(parts) < 2 {
			return nil, errors.New("the hash is incomplete")
		}
		n, err := strconv.Atoi(parts[1])
		if err != nil || n < 1 || n > maxIterations {
			return nil, fmt.Errorf("the hash has %q iterations: want 1 to %d", clip(parts[1]), maxIterations)
		}
		c.iterations, parts = n, parts[1:]
	}
	if len(parts) < 3 {
		return nil, errors.New("the hash is incomplete")
	}
	salt, err1 := base64.StdEncoding.DecodeString(parts[1])
	hash, err2 := base64.StdEncoding.DecodeString(parts[2])
	if err1 != nil || err2 != nil || len(salt) != saltBytes || len(hash) != hashBytes {
		return nil, fmt.Errorf("the hash is not %d bytes of salt and %d of SHA-512 in base64", saltBytes, hashBytes)
	}
	copy(c.salt[:], salt)
	copy(c.hash[:], hash)
	return c, nil
}

// trimBlanks removes what C's isspace calls blank.
func trimBlanks(s string) string { return strings.Trim(s, " \t\n\v\f\r") }

// verify reports whether the credential is that of the password. It takes as long as
// its iterations say, whatever the answer.
func (c *credential) verify(password string) bool {
	var got []byte
	if c.iterations == 0 {
		h := sha512.New()
		h.Write([]byte(password))
		h.Write(c.salt[:])
		got = h.Sum(nil)
	} else {
		var err error
		if got, err = pbkdf2.Key(sha512.New, password, c.salt[:], c.iterations, hashBytes); err != nil {
			return false // only for invalid lengths, and ours are constants
		}
	}
	// HMAC pads keys with NULs: it does not tell a password from the same with NULs added.
	return subtle.ConstantTimeCompare(got, c.hash[:]) == 1 && strings.IndexByte(password, 0) < 0
}

// fingerprint identifies the credential: every other one has another, even one of the
// same password.
func (c *credential) fingerprint() (id [16]byte) {
	h := sha256.New()
	fmt.Fprintf(h, "%d ", c.iterations)
	h.Write(c.salt[:])
	h.Write(c.hash[:])
	copy(id[:], h.Sum(nil))
	return id
}
