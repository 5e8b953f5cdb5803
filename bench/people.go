package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// API is a server's REST API.
type API struct {
	Base   string // such as http://localhost:8080, without /api
	Client *http.Client
}

// NewAPI returns the API at a URL, with as many connections as are used at once.
func NewAPI(base string) *API {
	t := &http.Transport{MaxIdleConnsPerHost: 1000, IdleConnTimeout: time.Minute, Proxy: http.ProxyFromEnvironment}
	return &API{Base: strings.TrimSuffix(base, "/"), Client: &http.Client{Transport: t, Timeout: time.Minute}}
}

// Close closes idle connections.
func (a *API) Close() { a.Client.CloseIdleConnections() }

// Problem is a refusal (contract, 3).
type Problem struct {
	Status         int           `json:"status"`
	Code           string        `json:"code"`
	Detail         string        `json:"detail"`
	ConversationID string        `json:"conversationId"` // of the direct conversation that exists
	RetryAfter     time.Duration `json:"-"`
}

func (p *Problem) Error() string {
	return fmt.Sprintf("HTTP %d %s: %s", p.Status, p.Code, p.Detail)
}

// call makes a request with a JSON body (nil: none) and decodes the answer into out (nil: it is dropped). A
// refusal is a *Problem.
func (a *API) call(ctx context.Context, token, method, path string, in, out any) error {
	var body io.Reader = http.NoBody
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.Base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := a.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode >= 300 {
		p := &Problem{Status: resp.StatusCode}
		if json.Unmarshal(answer, p) != nil {
			p.Detail = http.StatusText(resp.StatusCode)
		}
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After")) // 0: not said
		p.RetryAfter = time.Duration(seconds) * time.Second
		return fmt.Errorf("%s %s: %w", method, path, p)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

// Version asks the server which version it is.
func (a *API) Version(ctx context.Context) (string, error) {
	var doc struct{ Info struct{ Version string } }
	err := a.call(ctx, "", http.MethodGet, "/openapi.json", nil, &doc)
	return doc.Info.Version, err
}

// History reads the newest page of a conversation.
func (a *API) History(ctx context.Context, token, conversation string) error {
	return a.call(ctx, token, http.MethodGet, "/api/messages?conversationId="+conversation, nil, nil)
}

// Search looks for messages with a word, in all conversations of the user, and returns how many are on the first page.
func (a *API) Search(ctx context.Context, token, word string) (hits int, err error) {
	var page struct{ Data []json.RawMessage }
	err = a.call(ctx, token, http.MethodGet, "/api/messages/search?q="+url.QueryEscape(word), nil, &page)
	return len(page.Data), err
}

// Account is a user who can log in.
type Account struct {
	Username, Password string

	id    string
	token string
	since time.Time // when the token was made
}

// tokenLasts is how long a token is used: servers may end it after 15 minutes.
const tokenLasts = 8 * time.Minute

// People makes users and conversations for loads, over REST, and uses them again. Its methods may be called from
// any goroutine, one at a time but for Token.
type People struct {
	api    *API
	prefix string        // of the user names
	Made   func(Account) // called with each user who is signed up; nil: nothing
	Seen   func(what string, done, of int)

	mu       sync.Mutex // guards what is in the accounts
	accounts []*Account
	pairs    []string // direct conversations of users 0 and 1, 2 and 3 …
}

// NewPeople returns people with the given accounts; further ones are signed up when they are needed, under names
// that begin with the prefix.
func NewPeople(api *API, prefix string, accounts []Account) *People {
	p := &People{api: api, prefix: prefix}
	for _, a := range accounts {
		p.accounts = append(p.accounts, &a)
	}
	return p
}

// Use goes on at another address of the same server.
func (p *People) Use(api *API) { p.api = api }

// Ready sees to it that there are n users, who are logged in.
func (p *People) Ready(ctx context.Context, n int) error {
	have := len(p.accounts)
	for i := have; i < n; i++ {
		p.accounts = append(p.accounts, &Account{Username: fmt.Sprintf("%s-%04d", p.prefix, i), Password: "parley bench " + p.prefix})
	}
	var done atomic.Int64
	err := each(ctx, n, min(2*runtime.NumCPU(), 16), func(ctx context.Context, i int) error {
		if i >= have {
			if err := p.signUp(ctx, p.accounts[i]); err != nil {
				return err
			}
		}
		_, err := p.Token(ctx, i)
		if p.Seen != nil {
			p.Seen("users", int(done.Add(1)), n)
		}
		return err
	})
	if err != nil {
		p.accounts = p.accounts[:have] // whoever was made is not used
	}
	return err
}

func (p *People) signUp(ctx context.Context, a *Account) error {
	body := map[string]string{"username": a.Username, "email": a.Username + "@bench.invalid", "password": a.Password, "displayName": "parley bench"}
	if err := patiently(ctx, func() error { return p.api.call(ctx, "", http.MethodPost, "/api/users", body, nil) }); err != nil {
		return fmt.Errorf("sign up %s: %w", a.Username, err)
	}
	if p.Made != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.Made(*a)
	}
	return nil
}

// patiently repeats a request that is over a rate, when the server says.
func patiently(ctx context.Context, do func() error) error {
	for {
		err := do()
		var p *Problem
		if !errors.As(err, &p) || p.Status != http.StatusTooManyRequests || p.RetryAfter > time.Minute {
			return err
		}
		select {
		case <-time.After(max(p.RetryAfter, time.Second)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Token returns an access token of user i that is good for some minutes more.
func (p *People) Token(ctx context.Context, i int) (string, error) {
	a := p.accounts[i]
	p.mu.Lock()
	token, since := a.token, a.since
	p.mu.Unlock()
	if token != "" && time.Since(since) < tokenLasts {
		return token, nil
	}
	var session struct {
		AccessToken string
		User        struct{ ID string }
	}
	body := map[string]string{"username": a.Username, "password": a.Password, "device": "parley bench"}
	if err := patiently(ctx, func() error { return p.api.call(ctx, "", http.MethodPost, "/api/sessions", body, &session) }); err != nil {
		return "", fmt.Errorf("log in %s: %w", a.Username, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a.token, a.since, a.id = session.AccessToken, time.Now(), session.User.ID
	return a.token, nil
}

// Tokens returns tokens of the first n users.
func (p *People) Tokens(ctx context.Context, n int) ([]string, error) {
	if err := p.Ready(ctx, n); err != nil {
		return nil, err
	}
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = p.accounts[i].token
	}
	return tokens, nil
}

// IDs returns the ids of the first n users, who are ready.
func (p *People) IDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = p.accounts[i].id
	}
	return ids
}

// Pairs returns n direct conversations, of two users each.
func (p *People) Pairs(ctx context.Context, n int) ([]Room, error) {
	tokens, err := p.Tokens(ctx, 2*n)
	if err != nil {
		return nil, err
	}
	have := len(p.pairs)
	p.pairs = append(p.pairs, make([]string, max(0, n-have))...)
	err = each(ctx, n-have, 16, func(ctx context.Context, i int) (err error) {
		i += have
		p.pairs[i], err = p.direct(ctx, tokens[2*i], p.accounts[2*i+1].id)
		return err
	})
	if err != nil {
		p.pairs = p.pairs[:have]
		return nil, err
	}
	rooms := make([]Room, n)
	for i := range rooms {
		rooms[i] = Room{Conversation: p.pairs[i], Tokens: tokens[2*i : 2*i+2]}
	}
	return rooms, nil
}

// direct starts a direct conversation, or finds it.
func (p *People) direct(ctx context.Context, token, other string) (string, error) {
	var made struct{ ID string }
	err := p.api.call(ctx, token, http.MethodPost, "/api/conversations", map[string]string{"otherUserId": other}, &made)
	var exists *Problem
	if errors.As(err, &exists) && exists.Status == http.StatusConflict && exists.ConversationID != "" {
		return exists.ConversationID, nil
	}
	return made.ID, err
}

// Group makes a group of the users from..to-1, of whom the first is the owner.
func (p *People) Group(ctx context.Context, from, to int) (Room, error) {
	tokens, err := p.Tokens(ctx, to)
	if err != nil {
		return Room{}, err
	}
	room := Room{Tokens: slices.Clone(tokens[from:])}
	var made struct{ ID string }
	body := map[string]any{"userIds": p.IDs(to)[from+1:], "title": "parley bench " + p.prefix}
	err = p.api.call(ctx, tokens[from], http.MethodPost, "/api/conversations", body, &made)
	room.Conversation = made.ID
	return room, err
}
