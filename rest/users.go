package rest

import (
	"context"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

// NewUser is the body of POST /api/users.
type NewUser struct {
	_           struct{} `additionalProperties:"false"`
	Username    string   `json:"username" doc:"2 to 32 of a-z, 0-9, dot, underscore and hyphen, beginning with a letter or digit; unique." example:"alice"`
	Email       string   `json:"email" doc:"Unique; nobody else sees it." example:"alice@example.org"`
	Password    string   `json:"password" doc:"8 to 1024 bytes as NFC, without control characters. Compared by RFC 8265: however it is composed." example:"correct horse battery staple"`
	DisplayName string   `json:"displayName,omitempty" doc:"At most 100 characters; the user name by default." example:"Alice"`
}

// ProfileUpdate is the body of PATCH /api/users/me; fields left out stay as they are.
type ProfileUpdate struct {
	_               struct{} `additionalProperties:"false"`
	DisplayName     *string  `json:"displayName,omitempty" doc:"1 to 100 characters." example:"Alice"`
	Email           *string  `json:"email,omitempty" doc:"Requires currentPassword." example:"alice@example.org"`
	Password        *string  `json:"password,omitempty" doc:"Requires currentPassword. Ends all other sessions and every connection made with the old password." example:"correct horse battery staple"`
	CurrentPassword string   `json:"currentPassword,omitempty" example:"Tr0ub4dor&3"`
}

type userSearch struct {
	Q string `query:"q" required:"true" doc:"The beginning of the user name: 1 to 32 bytes." example:"ali"`
	Paging
}

func (s *server) users() {
	const tag = "users"
	signUp := created(op(tag, "POST /api/users", "createUser", "Register", ""))
	signUp.Middlewares = huma.Middlewares{byAddress}
	register(s, signUp, s.createUser, chat.Conflict, chat.Quota)
	register(s, s.secured(op(tag, "GET /api/users", "searchUsers", "Find users by the beginning of their user name", "")), s.searchUsers)
	register(s, s.secured(op(tag, "GET /api/users/me", "getMe", "Read your account", "")), s.getMe)
	updateMe := s.secured(op(tag, "PATCH /api/users/me", "updateMe", "Change your account", ""))
	updateMe.Middlewares = append(updateMe.Middlewares, byAddress)
	register(s, updateMe, s.updateMe, chat.Forbidden, chat.Conflict, chat.Quota)
}

func (s *server) createUser(ctx context.Context, in *with[NewUser]) (*body[User], error) {
	if err := identity.ValidateEmail(in.Body.Email); err != nil {
		return nil, err // accounts made here need an address; operators may create others
	}
	valid := func(err error) bool { return chat.CodeOf(err) != chat.Invalid } // a name that is taken counts: it could be looked for
	return reply(userOf)(limited(ctx, s, s.signups, valid, func() (*chat.User, error) {
		return s.identity.Register(ctx, identity.NewUser{
			Username: in.Body.Username, Email: in.Body.Email, Password: in.Body.Password, DisplayName: in.Body.DisplayName,
		})
	}))
}

var userList = list[chat.User, string, User]{
	kind: usersCursor, parse: parseTextKey, key: func(u *chat.User) []byte { return []byte(u.Username) }, show: userOf,
}

func (s *server) searchUsers(ctx context.Context, in *userSearch) (*body[Page[User]], error) {
	if len(in.Q) > chat.MaxUsernameBytes || !utf8.ValidString(in.Q) || strings.ContainsRune(in.Q, 0) {
		return nil, &chat.Error{Code: chat.Invalid, Field: "q", Msg: "must have 1 to 32 bytes of UTF-8 without NUL"}
	}
	q := strings.ToLower(in.Q)
	return userList.page(ctx, &in.Paging, q, func(ctx context.Context, _ chat.ID, after string, limit int) ([]chat.User, error) {
		return s.identity.SearchUsers(ctx, q, after, limit)
	})
}

func (s *server) getMe(ctx context.Context, _ *struct{}) (*body[Me], error) {
	return reply(meOf)(s.identity.GetUser(ctx, principal(ctx).UserID))
}

func (s *server) updateMe(ctx context.Context, in *with[ProfileUpdate]) (*body[Me], error) {
	b := &in.Body
	update := func() (*chat.User, error) {
		return s.identity.UpdateProfile(ctx, principal(ctx), identity.ProfileUpdate{
			DisplayName: b.DisplayName, Email: b.Email, Password: b.Password, CurrentPassword: b.CurrentPassword,
		})
	}
	if b.Email == nil && b.Password == nil {
		return reply(meOf)(update())
	}
	wrong := func(err error) bool { return chat.CodeOf(err) == chat.Forbidden }
	return reply(meOf)(limited(ctx, s, s.logins, wrong, update))
}
