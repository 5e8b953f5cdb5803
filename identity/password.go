package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/secure/precis"

	"github.com/parleymq/parley/chat"
)

// PasswordParams is what a new password hash costs (argon2id, RFC 9106). It is
// stored in each hash, so it can be raised at any time: a password hashed with
// less is hashed again when its owner next logs in.
type PasswordParams struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// DefaultPasswordParams is OWASP's first choice of 2024: 19 MiB, two passes,
// one thread.
var DefaultPasswordParams = PasswordParams{MemoryKiB: 19 << 10, Passes: 2, Threads: 1}

const (
	saltBytes = 16
	hashBytes = 32
)

// opaque returns a password as it is hashed and compared: RFC 8265, 4.2 (OpaqueString). The
// same characters are the same password, however the keyboard has put them together (Unicode
// NFC), and every space is a space. An error for what no password may have: control
// characters, unassigned code points, invalid UTF-8.
func opaque(password string) (string, error) {
	if len(password) > 4*chat.MaxPasswordBytes { // more than any that is short enough when it is put together
		return "", errors.New("too long")
	}
	if !utf8.ValidString(password) { // which precis would mend
		return "", errors.New("invalid UTF-8")
	}
	return precis.OpaqueString.String(password)
}

func passwordLength(password string) bool {
	return len(password) >= chat.MinPasswordBytes && len(password) <= chat.MaxPasswordBytes
}

// ValidatePassword reports what is wrong with a new password as Invalid, or nil: as NFC
// it has 8 to 1024 bytes of UTF-8, without control characters and unassigned code points (RFC
// 8265, 4.2; NIST SP 800-63B, 5.1.1.2).
func ValidatePassword(password string) error {
	normal, err := opaque(password)
	switch {
	case err == nil && passwordLength(normal):
		return nil
	case err == nil || len(password) < chat.MinPasswordBytes || len(password) > 4*chat.MaxPasswordBytes:
		return invalid("password", fmt.Sprintf("must have %d to %d bytes", chat.MinPasswordBytes, chat.MaxPasswordBytes))
	case !utf8.ValidString(password):
		return invalid("password", "must be valid UTF-8")
	}
	return invalid("password", "must not have control characters, or characters that Unicode does not have")
}

// spellings returns what the hash of a password may be of: the password as opaque makes it,
// and if that is something else, the password as it was typed, which was hashed formerly. None
// if no password is like that.
func spellings(password string) []string {
	var list []string
	normal, err := opaque(password)
	if err == nil && passwordLength(normal) {
		list = append(list, normal)
	}
	if passwordLength(password) && (err != nil || password != normal) {
		list = append(list, password)
	}
	return list
}

// hasher makes and checks password hashes, a few at a time: each takes a core and
// 19 MiB for some 30 ms, and many logins at once must not take the whole machine.
type hasher struct {
	params  PasswordParams
	decoy   string        // a hash at the current cost that no password has
	slots   chan struct{} // one for each hash that may run; at most maxWait callers wait for one
	waiting atomic.Int64
	maxWait int64
	metrics *metrics
	started func() // test signal: a hash has its slot; may be nil
}

func newHasher(p PasswordParams, running, waiting int, m *metrics) (*hasher, error) {
	if p.Passes == 0 || p.Threads == 0 || p.MemoryKiB < 8*uint32(p.Threads) {
		return nil, fmt.Errorf("password parameters %+v: want at least 1 pass, 1 thread and 8 KiB for each thread (RFC 9106, 3.1)", p)
	}
	return &hasher{
		params: p, decoy: encodePHC(p, randomBytes(saltBytes), randomBytes(hashBytes)),
		slots: make(chan struct{}, running), maxWait: int64(waiting), metrics: m,
	}, nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return b
}

// HashSlot waits until one more password may be hashed, and returns what the caller
// calls when it has been. It is for listeners that check password files of their own,
// so that all of them together use no more CPUs than Options.MaxHashes. Quota if too
// many are waiting already; Unavailable when ctx ends.
func (s *Service) HashSlot(ctx context.Context) (release func(), err error) {
	return s.hasher.slot(ctx)
}

func (h *hasher) slot(ctx context.Context) (release func(), err error) {
	select {
	case h.slots <- struct{}{}:
	default:
		if h.waiting.Add(1) > h.maxWait {
			h.waiting.Add(-1)
			h.metrics.rejected.Inc()
			return nil, &chat.Error{Code: chat.Quota, Op: "identity.password", Msg: "too many logins at once; try again in a moment", RetryAfter: 2 * time.Second}
		}
		h.metrics.waiting.Inc()
		defer func() { h.waiting.Add(-1); h.metrics.waiting.Dec() }()
		select {
		case h.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, &chat.Error{Code: chat.Unavailable, Op: "identity.password", Err: context.Cause(ctx)}
		}
	}
	h.metrics.running.Inc()
	if h.started != nil {
		h.started()
	}
	begin := time.Now() // a duration, not a date: not the service's clock
	return func() {
		h.metrics.seconds.Observe(time.Since(begin).Seconds())
		h.metrics.running.Dec()
		<-h.slots
	}, nil
}

// hash returns the PHC string of password, in the spelling that verify tries first.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if list := spellings(password); len(list) > 0 {
		password = list[0]
	}
	release, err := h.slot(ctx)
	if err != nil {
		return "", err
	}
	defer release()
	salt, p := randomBytes(saltBytes), h.params
	return encodePHC(p, salt, argon2.IDKey([]byte(password), salt, p.Passes, p.MemoryKiB, p.Threads, hashBytes)), nil
}

// verify reports whether phc is the hash of password, and whether hash would make another
// one: a stronger one, or one of another spelling. An empty phc (no such user) costs as much
// as a wrong password and matches none.
func (h *hasher) verify(ctx context.Context, phc, password string) (ok, weak bool, err error) {
	known := phc != ""
	if !known {
		phc = h.decoy
	}
	p, salt, want, err := decodePHC(phc)
	if err != nil {
		return false, false, &chat.Error{Code: chat.Internal, Op: "identity.password", Err: err}
	}
	release, err := h.slot(ctx)
	if err != nil {
		return false, false, err
	}
	defer release()
	weak = p.MemoryKiB < h.params.MemoryKiB || p.Passes < h.params.Passes || len(want) < hashBytes
	for i, spelling := range spellings(password) {
		got := argon2.IDKey([]byte(spelling), salt, p.Passes, p.MemoryKiB, p.Threads, uint32(len(want)))
		if subtle.ConstantTimeCompare(got, want) == 1 && known {
			return true, weak || i > 0, nil
		}
	}
	return false, weak, nil
}

func encodePHC(p PasswordParams, salt, hash []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.MemoryKiB, p.Passes, p.Threads, b64.EncodeToString(salt), b64.EncodeToString(hash))
}

// decodePHC reads what encodePHC writes, and argon2id hashes of other programs
// within bounds: at most 1 GiB, 64 passes, 64 threads, so that a hash that somebody put
// into the database cannot take the machine.
func decodePHC(s string) (p PasswordParams, salt, hash []byte, err error) {
	bad := errors.New("a stored password hash is not argon2id in PHC form")
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, bad
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.MemoryKiB, &p.Passes, &p.Threads); err != nil || n != 3 {
		return p, nil, nil, bad
	}
	salt, err1 := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	hash, err2 := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	switch {
	case err1 != nil || err2 != nil,
		p.MemoryKiB < 8 || p.MemoryKiB > 1<<20 || p.Passes < 1 || p.Passes > 64 || p.Threads < 1 || p.Threads > 64,
		len(salt) < 8 || len(salt) > 64 || len(hash) < 16 || len(hash) > 64:
		return p, nil, nil, bad
	}
	return p, salt, hash, nil
}
