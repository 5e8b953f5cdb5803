package rest

import (
	"context"
	"net/http"
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
	Password    string   `json:"password" doc:"8 to 1024 bytes." example:"correct horse battery staple"`
	DisplayName string   `json:"displayName,omitempty" doc:"At most 100 characters; none: the user name." example:"Alice"`
}

// ProfileUpdate is the body of PATCH /api/users/me; fields left out stay as they are.
type ProfileUpdate struct {
	_               struct{} `additionalProperties:"false"`
	DisplayName     *string  `json:"displayName,omitempty" doc:"1 to 100 characters." example:"Alice"`
	Email           *string  `json:"email,omitempty" doc:"Needs currentPassword." example:"alice@example.org"`
	Password        *string  `json:"password,omitempty" doc:"Needs currentPassword, and ends all other sessions and every connection made with the old password." example:"correct horse battery staple"`
	CurrentPassword string   `json:"currentPassword,omitempty" example:"Tr0ub4dor&3"`
}

type userSearch struct {
	Q string `query:"q" required:"true" doc:"What the user name begins with: 1 to 32 bytes." example:"ali"`
	Paging
}

func (s *server) users(signup chat.Limiter) {
	register(s, huma.Operation{
		OperationID: "createUser", Method: http.MethodPost, Path: "/api/users", Tags: []string{"users"}, DefaultStatus: http.StatusCreated,
		Summary: "Register", Middlewares: huma.Middlewares{s.limited(signup)},
	}, s.createUser, chat.Conflict, chat.Quota)
	register(s, s.secured(huma.Operation{
		OperationID: "searchUsers", Method: http.MethodGet, Path: "/api/users", Tags: []string{"users"},
		Summary: "Find users by the beginning of their user name",
	}), s.searchUsers)
	register(s, s.secured(huma.Operation{
		OperationID: "getMe", Method: http.MethodGet, Path: "/api/users/me", Tags: []string{"users"}, Summary: "Read one's own account",
	}), s.getMe)
	register(s, s.secured(huma.Operation{
		OperationID: "updateMe", Method: http.MethodPatch, Path: "/api/users/me", Tags: []string{"users"}, Summary: "Change one's own account",
	}), s.updateMe, chat.Forbidden, chat.Conflict, chat.Quota)
}

func (s *server) createUser(ctx context.Context, in *struct{ Body NewUser }) (*body[User], error) {
	if err := identity.ValidateEmail(in.Body.Email); err != nil {
		return nil, err // an account made here can be found by mail; operators may make others
	}
	u, err := s.identity.Register(ctx, identity.NewUser{
		Username: in.Body.Username, Email: in.Body.Email, Password: in.Body.Password, DisplayName: in.Body.DisplayName,
	})
	if err != nil {
		return nil, err
	}
	return &body[User]{userOf(u)}, nil
}

func (s *server) searchUsers(ctx context.Context, in *userSearch) (*body[Page[User]], error) {
	me := principal(ctx)
	if len(in.Q) > chat.MaxUsernameBytes || !utf8.ValidString(in.Q) || strings.ContainsRune(in.Q, 0) {
		return nil, &chat.Error{Code: chat.Invalid, Field: "q", Msg: "must have 1 to 32 bytes of UTF-8 without NUL"}
	}
	q := strings.ToLower(in.Q)
	var after string
	if in.Cursor != "" {
		_, key, err := decodeCursor(in.Cursor, me.UserID, q, usersCursor)
		if err != nil {
			return nil, err
		}
		var ok bool
		if after, ok = parseTextKey(key); !ok {
			return nil, badCursor()
		}
	}
	found, err := s.identity.SearchUsers(ctx, q, after, in.Limit+1) // one more tells whether there are more
	if err != nil {
		return nil, err
	}
	var next string
	if len(found) > in.Limit {
		found = found[:in.Limit]
		next = encodeCursor(usersCursor, me.UserID, q, []byte(found[in.Limit-1].Username))
	}
	users := make([]User, 0, len(found))
	for i := range found {
		users = append(users, userOf(&found[i]))
	}
	return &body[Page[User]]{newPage(users, next)}, nil
}

func (s *server) getMe(ctx context.Context, _ *struct{}) (*body[Me], error) {
	u, err := s.identity.GetUser(ctx, principal(ctx).UserID)
	if err != nil {
		return nil, err
	}
	return &body[Me]{meOf(u)}, nil
}

func (s *server) updateMe(ctx context.Context, in *struct{ Body ProfileUpdate }) (*body[Me], error) {
	u, err := s.identity.UpdateProfile(ctx, principal(ctx), identity.ProfileUpdate{
		DisplayName: in.Body.DisplayName, Email: in.Body.Email, Password: in.Body.Password, CurrentPassword: in.Body.CurrentPassword,
	})
	if err != nil {
		return nil, err
	}
	return &body[Me]{meOf(u)}, nil
}
