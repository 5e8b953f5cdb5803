package mosquitto

import (
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/parleymq/parley/chat"
)

// Gate is who may come in through a listener, and what for, by its password and ACL
// files. What they say may change while clients are connected; see Rules.Reload. It
// is safe for concurrent use.
type Gate struct {
	says    atomic.Pointer[saying]
	hashing *turns
}

// saying is what the files of a Gate say, read at one time. It does not change.
type saying struct {
	passwords *Passwords // nil: no password file
	acl       *ACL       // nil: no ACL file, everything is allowed
	anonymous bool
}

// The realms of guests: who vouches for the name.
const (
	realmFile        = "mosquitto password file"
	realmCertificate = "certificate"
	realmNobody      = "unverified"
)

// Authenticator is a Gate over Parley's accounts. A password that the file accepts
// makes a guest; every other credential is the accounts' to judge, so that people
// and devices may share a listener.
type Authenticator struct {
	gate          *Gate
	accounts      chat.Authenticator
	byCertificate bool
}

var (
	_ chat.Authenticator = (*Authenticator)(nil)
	_ chat.GuestBook     = (*Authenticator)(nil)
	_ chat.TopicAccess   = (*Gate)(nil)
)

// Authenticator returns the gate as a listener's Authenticator. byCertificate says
// that the listener's clients are known by their certificates, and by nothing else.
func (g *Gate) Authenticator(accounts chat.Authenticator, byCertificate bool) *Authenticator {
	return &Authenticator{gate: g, accounts: accounts, byCertificate: byCertificate}
}

// VerifyToken implements chat.Authenticator: tokens are of accounts.
func (a *Authenticator) VerifyToken(ctx context.Context, token string) (chat.Principal, error) {
	return a.accounts.VerifyToken(ctx, token)
}

// VerifyPassword implements chat.Authenticator, for those whom VerifyGuestPassword
// did not let in: they may be accounts. Without a password file names and passwords
// are not checked, where anonymous clients are allowed (as in Mosquitto).
func (a *Authenticator) VerifyPassword(ctx context.Context, login, password string) (chat.Principal, error) {
	p, err := a.accounts.VerifyPassword(ctx, login, password)
	if chat.CodeOf(err) == chat.Unauthenticated {
		if guest, no := a.VerifyGuest(ctx, login); no == nil {
			return guest, nil
		}
	}
	return p, err
}

// VerifyGuestPassword implements chat.GuestBook: is it the one in the password file?
// At most as many are hashed at once as there are CPUs; Quota if too many wait.
func (a *Authenticator) VerifyGuestPassword(ctx context.Context, username, password string) (chat.Principal, error) {
	s := a.gate.says.Load()
	if s.passwords == nil || s.passwords.users[username] == nil {
		return chat.Principal{}, errUnknown
	}
	c := s.passwords.users[username]
	done, err := a.gate.hashing.take(ctx)
	if err != nil {
		return chat.Principal{}, err
	}
	defer done()
	if !c.verify(password) {
		return chat.Principal{}, errUnknown
	}
	p := chat.GuestPrincipal(realmFile, username)
	p.LoginID = chat.ID(c.mark())
	return p, nil
}

// VerifyGuest implements chat.GuestBook. A name without a password is nobody's,
// where there is a password file.
func (a *Authenticator) VerifyGuest(_ context.Context, username string) (chat.Principal, error) {
	s := a.gate.says.Load()
	switch {
	case !s.anonymous || username != "" && s.passwords != nil:
		return chat.Principal{}, errUnknown
	case username == "":
		return chat.AnonymousPrincipal(), nil
	}
	return chat.GuestPrincipal(realmNobody, username), nil
}

// VerifyCertificate implements chat.GuestBook: TLS has checked it.
func (a *Authenticator) VerifyCertificate(_ context.Context, name string) (chat.Principal, error) {
	return chat.GuestPrincipal(realmCertificate, name), nil
}

// Revoked implements chat.Authenticator: a guest is no good any more when the file
// has another hash for its name, or none, and an anonymous client when such are not
// allowed any more.
func (a *Authenticator) Revoked(p chat.Principal) bool {
	if p.HasAccount() {
		return a.accounts.Revoked(p)
	}
	if a.byCertificate {
		return false
	}
	s := a.gate.says.Load()
	switch {
	case !p.LoginID.IsZero() && s.passwords != nil:
		c := s.passwords.users[p.Username]
		return c == nil || chat.ID(c.mark()) != p.LoginID
	case p.Username == "":
		return !s.anonymous
	}
	return !s.anonymous || s.passwords != nil
}

var errUnknown = &chat.Error{Code: chat.Unauthenticated, Op: "mosquitto.Gate", Msg: "user name or password is wrong"}

// MayPublish implements chat.TopicAccess.
func (g *Gate) MayPublish(d chat.TopicUser, topic string) bool {
	if strings.HasPrefix(topic, "$SYS") && !matches("$SYS/broker/connection/+/state", topic) {
		return false // a bridge says there that it is connected
	}
	return g.may(d, topic, write)
}

// MaySubscribe implements chat.TopicAccess: as in Mosquitto 2, anything may be
// subscribed to, and reading is decided for each publication.
func (g *Gate) MaySubscribe(chat.TopicUser, string) bool { return true }

// MayReceive implements chat.TopicAccess.
func (g *Gate) MayReceive(d chat.TopicUser, topic string) bool { return g.may(d, topic, read) }

func (g *Gate) may(d chat.TopicUser, topic string, acc access) bool {
	if strings.HasPrefix(topic, "$share") {
		return false
	}
	acl := g.says.Load().acl
	if acl == nil {
		return true
	}
	return acl.may(user{name: d.Principal.Username, unnamed: d.Principal.Username == "", clientID: d.ClientID}, topic, acc)
}

// turns bounds how many passwords are hashed at once, by all gates together.
type turns struct {
	slots   chan struct{} // one for each hash that runs
	waiting atomic.Int64
}

const maxWaitingHashes = 128

func newTurns() *turns { return &turns{slots: make(chan struct{}, runtime.GOMAXPROCS(0))} }

// take waits for a turn: Quota if too many wait already, Unavailable when ctx ends.
func (t *turns) take(ctx context.Context) (done func(), err error) {
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	default:
	}
	if t.waiting.Add(1) > maxWaitingHashes {
		t.waiting.Add(-1)
		return nil, &chat.Error{Code: chat.Quota, Op: "mosquitto.Gate", Msg: "too many logins at once; try again in a moment", RetryAfter: 2 * time.Second}
	}
	defer t.waiting.Add(-1)
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-ctx.Done():
		return nil, &chat.Error{Code: chat.Unavailable, Op: "mosquitto.Gate", Err: context.Cause(ctx)}
	}
}
