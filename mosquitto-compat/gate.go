package mosquitto

import (
	"context"
	"strings"
	"sync/atomic"

	"github.com/parleymq/parley/chat"
)

// Gate decides who may connect through a listener and what they may do there, by the
// listener's password and ACL files. Their contents may change while clients are
// connected; see Rules.Reload. It is safe for concurrent use.
type Gate struct{ files atomic.Pointer[contents] }

// contents is what the files of a Gate contain, read at one time. It does not change.
type contents struct {
	passwords *Passwords // nil: no password file
	acl       *ACL       // nil: no ACL file, everything is allowed
	anonymous bool
}

// The realms of guests: what vouches for the name.
const (
	realmFile        = "mosquitto password file"
	realmCertificate = "certificate"
	realmNobody      = "unverified"
)

// Accounts are Parley's own, behind a Gate.
type Accounts interface {
	chat.Authenticator
	// HashSlot waits until one more password may be hashed, and returns what is to be
	// called when it has been. Quota if too many are waiting already; Unavailable when
	// ctx ends.
	HashSlot(ctx context.Context) (release func(), err error)
}

// Authenticator is a Gate in front of Parley's accounts. A password that the file
// accepts makes a guest; every other credential is left to the accounts, so that people
// and devices may share a listener.
type Authenticator struct {
	gate          *Gate
	accounts      Accounts
	byCertificate bool
}

var (
	_ chat.Authenticator = (*Authenticator)(nil)
	_ chat.GuestBook     = (*Authenticator)(nil)
	_ chat.TopicAccess   = (*Gate)(nil)
)

// Authenticator returns the gate as a listener's Authenticator. byCertificate says
// that certificates alone identify the listener's clients.
func (g *Gate) Authenticator(accounts Accounts, byCertificate bool) *Authenticator {
	return &Authenticator{gate: g, accounts: accounts, byCertificate: byCertificate}
}

// VerifyToken implements chat.Authenticator: only accounts have tokens.
func (a *Authenticator) VerifyToken(ctx context.Context, token string) (chat.Principal, error) {
	return a.accounts.VerifyToken(ctx, token)
}

// VerifyPassword implements chat.Authenticator, for clients that VerifyGuestPassword
// did not accept: they may be accounts. Without a password file, names and passwords
// are not checked where anonymous clients are allowed (as in Mosquitto).
func (a *Authenticator) VerifyPassword(ctx context.Context, login, password string) (chat.Principal, error) {
	p, err := a.accounts.VerifyPassword(ctx, login, password)
	if chat.CodeOf(err) == chat.Unauthenticated {
		if guest, no := a.VerifyGuest(ctx, login); no == nil {
			return guest, nil
		}
	}
	return p, err
}

// VerifyGuestPassword implements chat.GuestBook: it checks the password file. Errors as
// Accounts.HashSlot.
func (a *Authenticator) VerifyGuestPassword(ctx context.Context, username, password string) (chat.Principal, error) {
	s := a.gate.files.Load()
	if s.passwords == nil || s.passwords.users[username] == nil {
		return chat.Principal{}, errUnknown
	}
	c := s.passwords.users[username]
	release, err := a.accounts.HashSlot(ctx)
	if err != nil {
		return chat.Principal{}, err
	}
	defer release()
	if !c.verify(password) {
		return chat.Principal{}, errUnknown
	}
	p := chat.GuestPrincipal(realmFile, username)
	p.LoginID = chat.ID(c.fingerprint())
	return p, nil
}

// VerifyGuest implements chat.GuestBook. Where there is a password file, a name without
// a password is refused.
func (a *Authenticator) VerifyGuest(_ context.Context, username string) (chat.Principal, error) {
	s := a.gate.files.Load()
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

// Revoked implements chat.Authenticator: a guest is revoked when the file has another
// hash for its name, or none, and an anonymous client when they are no longer allowed.
func (a *Authenticator) Revoked(p chat.Principal) bool {
	if p.HasAccount() {
		return a.accounts.Revoked(p)
	}
	if a.byCertificate {
		return false
	}
	s := a.gate.files.Load()
	switch {
	case !p.LoginID.IsZero() && s.passwords != nil:
		c := s.passwords.users[p.Username]
		return c == nil || chat.ID(c.fingerprint()) != p.LoginID
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
	acl := g.files.Load().acl
	if acl == nil {
		return true
	}
	return acl.may(user{name: d.Principal.Username, unnamed: d.Principal.Username == "", clientID: d.ClientID}, topic, acc)
}
