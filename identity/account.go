package identity

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/parleymq/parley/chat"
)

// NewUser is what Register needs.
type NewUser struct {
	Username    string
	Email       string // lower-cased; may be empty
	Password    string
	DisplayName string // empty: the user name
	Admin       bool
}

// ValidateEmail reports what is wrong with an email address as Invalid, or nil.
// It asks for the shape only; whether mail arrives is another question.
func ValidateEmail(s string) error {
	local, domain, ok := strings.Cut(s, "@")
	odd := func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune(`<>()[]\,;:"`, r)
	}
	if !ok || local == "" || domain == "" || len(s) > chat.MaxEmailBytes || !utf8.ValidString(s) ||
		strings.ContainsRune(domain, '@') || strings.ContainsFunc(s, odd) {
		return invalid("email", "must be an email address of at most 254 bytes")
	}
	return nil
}

// normalEmail returns an address as it is stored and looked up: in lower case, and NFC (RFC
// 6532, 3.1). It is checked before, since ToLower mends invalid UTF-8, and after, since it may
// lengthen.
func normalEmail(s string) (string, error) {
	if err := ValidateEmail(s); err != nil {
		return "", err
	}
	s = norm.NFC.String(strings.ToLower(s))
	return s, ValidateEmail(s)
}

// Register makes an account. Invalid names the field; Conflict with Field "username" or
// "email" if another account has it; Quota and Unavailable as VerifyPassword.
func (s *Service) Register(ctx context.Context, n NewUser) (*chat.User, error) {
	if n.DisplayName == "" {
		n.DisplayName = n.Username
	}
	checks := []error{chat.ValidateUsername(n.Username), ValidatePassword(n.Password), chat.ValidateDisplayName(n.DisplayName)}
	if n.Email != "" {
		var err error
		n.Email, err = normalEmail(n.Email)
		checks = append(checks, err)
	}
	for _, err := range checks {
		if err != nil {
			return nil, err
		}
	}
	hash, err := s.hasher.hash(ctx, n.Password)
	if err != nil {
		return nil, err
	}
	a := Account{PasswordHash: hash, User: chat.User{
		ID: chat.NewID(), Username: n.Username, Email: n.Email, DisplayName: n.DisplayName, Admin: n.Admin, CreatedAt: s.now(),
	}}
	if err := s.store.CreateUser(ctx, a); err != nil {
		return nil, err
	}
	return &a.User, nil
}

// VerifyPassword implements chat.Authenticator.
func (s *Service) VerifyPassword(ctx context.Context, login, password string) (chat.Principal, error) {
	a, err := s.verifyPassword(ctx, login, password)
	if err != nil {
		return chat.Principal{}, err
	}
	return chat.Principal{UserID: a.ID, Username: a.Username, Admin: a.Admin, CredentialsAt: a.CredentialsAt}, nil
}

func (s *Service) verifyPassword(ctx context.Context, login, password string) (*Account, error) {
	refused := func(err error) (*Account, error) {
		s.metrics.logins.WithLabelValues("password", "refused").Inc()
		return nil, badLogin(err)
	}
	if len(spellings(password)) == 0 {
		return refused(errors.New("no password has this length")) // answered early: it says nothing about the user
	}
	a, err := s.find(ctx, login)
	if chat.CodeOf(err) == chat.NotFound {
		a, err = &Account{}, nil // hash all the same: the time must not show who has an account
	}
	if err != nil {
		return nil, err
	}
	ok, weak, err := s.hasher.verify(ctx, a.PasswordHash, password)
	switch {
	case err != nil:
		return nil, err
	case a.ID.IsZero():
		return refused(errors.New("no such user"))
	case !ok:
		return refused(errors.New("wrong password"))
	case !a.DisabledAt.IsZero():
		return refused(errors.New("user disabled"))
	}
	if weak {
		s.rehash(ctx, a, password)
	}
	return a, nil
}

// rehash stores the password hashed with the current parameters. When it fails, the
// next login tries again.
func (s *Service) rehash(ctx context.Context, a *Account, password string) {
	hash, err := s.hasher.hash(ctx, password)
	if err == nil {
		_, err = s.store.UpdateUser(ctx, a.ID, UserUpdate{PasswordHash: &hash, IfPasswordHash: &a.PasswordHash})
	}
	switch {
	case err == nil:
		a.PasswordHash = hash
	case chat.CodeOf(err) != chat.NotFound: // else the password was changed in the meantime
		s.logger.WarnContext(ctx, "could not store the password hash with the current parameters", "user", a.ID, "err", err)
	}
}

// find returns an account by user name or email address, or NotFound. A text that can
// be neither is not looked up.
func (s *Service) find(ctx context.Context, login string) (*Account, error) {
	login = strings.ToLower(login)
	if chat.ValidateUsername(login) != nil && ValidateEmail(login) != nil {
		return nil, &chat.Error{Code: chat.NotFound, Op: "identity.find", Field: "user", Msg: "there is no such user"}
	}
	normal := norm.NFC.String(login)
	a, err := s.store.FindUser(ctx, normal)
	if chat.CodeOf(err) == chat.NotFound && normal != login { // an email address stored formerly
		return s.store.FindUser(ctx, login)
	}
	return a, err
}

// FindUser returns a user by user name or email address, or NotFound.
func (s *Service) FindUser(ctx context.Context, login string) (*chat.User, error) {
	a, err := s.find(ctx, login)
	if err != nil {
		return nil, err
	}
	return &a.User, nil
}

// GetUser returns a user by id, or NotFound.
func (s *Service) GetUser(ctx context.Context, id chat.ID) (*chat.User, error) {
	a, err := s.store.GetUser(ctx, id)
	if err != nil {
		return nil, err
	}
	return &a.User, nil
}

// SearchUsers returns up to limit enabled users whose user name begins with
// prefix, after the user name given, by user name.
func (s *Service) SearchUsers(ctx context.Context, prefix, after string, limit int) ([]chat.User, error) {
	prefix = strings.ToLower(prefix)
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	}
	if len(prefix) > chat.MaxUsernameBytes || strings.ContainsFunc(prefix, odd) {
		return nil, nil // no user name begins like that
	}
	return s.store.SearchUsers(ctx, prefix, after, limit)
}

// ListUsers returns up to limit users after the user name given, disabled ones too.
func (s *Service) ListUsers(ctx context.Context, after string, limit int) ([]chat.User, error) {
	return s.store.ListUsers(ctx, after, limit)
}

// ProfileUpdate is what users may change of themselves; nil leaves a field as it is.
type ProfileUpdate struct {
	DisplayName     *string
	Email           *string
	Password        *string
	CurrentPassword string // needed to change Email or Password
}

// UpdateProfile changes the caller's own account. A new password revokes all their
// logins but the calling one, and every connection that was authenticated with the old
// password or an operator's token, the calling one included. Invalid, Conflict;
// Forbidden naming currentPassword if that is needed and wrong.
func (s *Service) UpdateProfile(ctx context.Context, p chat.Principal, u ProfileUpdate) (*chat.User, error) {
	var change UserUpdate
	if u.DisplayName != nil {
		if *u.DisplayName == "" {
			return nil, invalid("displayName", "must not be empty")
		}
		if err := chat.ValidateDisplayName(*u.DisplayName); err != nil {
			return nil, err
		}
		change.DisplayName = u.DisplayName
	}
	if u.Email != nil {
		email, err := normalEmail(*u.Email)
		if err != nil {
			return nil, err
		}
		change.Email = &email
	}
	if u.Password != nil {
		if err := ValidatePassword(*u.Password); err != nil {
			return nil, err
		}
	}
	if u.Email != nil || u.Password != nil {
		if err := s.confirm(ctx, p.UserID, u.CurrentPassword); err != nil {
			return nil, err
		}
	}
	if change == (UserUpdate{}) && u.Password == nil {
		return s.GetUser(ctx, p.UserID)
	}
	return s.update(ctx, p.UserID, p.LoginID, change, u.Password)
}

// update stores a change. With a password, that is stored too, and everything that
// depends on the old one is revoked, but for one login (zero: none).
func (s *Service) update(ctx context.Context, user, except chat.ID, change UserUpdate, password *string) (*chat.User, error) {
	if password != nil {
		hash, err := s.hasher.hash(ctx, *password)
		if err != nil {
			return nil, err
		}
		now := s.now()
		change.PasswordHash, change.CredentialsAt = &hash, &now
	}
	a, err := s.store.UpdateUser(ctx, user, change)
	if err != nil {
		return nil, err
	}
	if password == nil {
		return &a.User, nil
	}
	s.revoked.add(s.clock.Now(), []Revocation{{UserID: a.ID, At: a.CredentialsAt, Credentials: true}}, true)
	return &a.User, s.revokeLogins(ctx, a.ID, except)
}

func (s *Service) confirm(ctx context.Context, user chat.ID, password string) error {
	a, err := s.store.GetUser(ctx, user)
	if err != nil {
		return err
	}
	if len(spellings(password)) > 0 {
		ok, _, err := s.hasher.verify(ctx, a.PasswordHash, password)
		if err != nil || ok {
			return err
		}
	}
	return &chat.Error{Code: chat.Forbidden, Op: "identity.UpdateProfile", Field: "currentPassword", Msg: "is wrong, and is needed to change email or password"}
}

// SetPassword gives a user a new password and revokes all their logins, and every
// connection that was authenticated with the old password or an operator's token.
// NotFound, Invalid.
func (s *Service) SetPassword(ctx context.Context, login, password string) (*chat.User, error) {
	if err := ValidatePassword(password); err != nil {
		return nil, err
	}
	a, err := s.find(ctx, login)
	if err != nil {
		return nil, err
	}
	return s.update(ctx, a.ID, chat.ID{}, UserUpdate{}, &password)
}

// SetDisabled disables a user, which revokes all their logins and connections and
// prevents new ones, or enables them. It may be repeated. NotFound.
func (s *Service) SetDisabled(ctx context.Context, login string, disable bool) (*chat.User, error) {
	a, err := s.find(ctx, login)
	if err != nil {
		return nil, err
	}
	if is := !a.DisabledAt.IsZero(); is == disable {
		return &a.User, nil
	}
	var at time.Time
	if disable {
		at = s.now()
	}
	if a, err = s.store.UpdateUser(ctx, a.ID, UserUpdate{DisabledAt: &at}); err != nil {
		return nil, err
	}
	if !disable {
		s.revoked.enabled(a.ID, s.clock.Now())
		return &a.User, nil
	}
	s.revoked.add(at, []Revocation{{UserID: a.ID, At: at}}, true)
	return &a.User, s.revokeLogins(ctx, a.ID, chat.ID{})
}

// revokeLogins revokes all logins of a user but one (zero: none), on this node at once;
// the others poll.
func (s *Service) revokeLogins(ctx context.Context, user, except chat.ID) error {
	now := s.now()
	ids, err := s.store.RevokeUser(ctx, user, except, now)
	if err != nil {
		return err
	}
	news := make([]Revocation, 0, len(ids))
	for _, id := range ids {
		news = append(news, Revocation{LoginID: id, UserID: user, At: now})
	}
	s.revoked.add(now, news, true)
	return nil
}
