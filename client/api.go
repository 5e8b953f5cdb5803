package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// API is the REST API: each call makes one request, as the user of the Options. It is
// safe for concurrent use. A request is repeated only if its token was refused, with a
// new token; calls that the caller may repeat say so. Each request is limited to 30 s.
type API struct {
	o      Options
	http   *http.Client
	tokens *tokens
}

// NewAPI returns an API, for programs that need no connection, and for Register.
// Of the options it uses URL, TLS, those of the login, HTTPClient and Logger. It
// makes no request. The error is Invalid and names the option.
func NewAPI(o Options) (*API, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	a := &API{o: o, http: o.HTTPClient}
	if a.http == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.TLSClientConfig = o.TLS.Clone()
		t.MaxIdleConnsPerHost = 8
		a.http = &http.Client{Transport: t}
	}
	a.tokens = newTokens(a)
	return a, nil
}

// CloseIdle closes connections that no request is using, unless they are of
// Options.HTTPClient. The API can still be used.
func (a *API) CloseIdle() {
	if a.o.HTTPClient == nil {
		a.http.CloseIdleConnections()
	}
}

const (
	requestTimeout = 30 * time.Second
	maxAnswerBytes = 64 << 20 // 100 messages of 64 KiB, each byte escaped, are less
)

// call is one request.
type call struct {
	op     string // for errors
	method string
	path   string
	query  url.Values
	in     any // the body; nil: none
	out    any // where the answer goes; nil: it has none
}

// do makes a request as the user. If its token is refused it tries a new one, and once
// more if another call had just renewed that for the same login.
func (a *API) do(ctx context.Context, c call) (err error) {
	var refused string
	for range 3 {
		token, tokenErr := a.tokens.get(ctx, refused)
		if tokenErr != nil {
			return tokenErr
		}
		if err = a.request(ctx, c, token); !errors.Is(err, Unauthenticated) {
			return err
		}
		refused = token
	}
	return err
}

// request makes a request with a token; "": without authentication.
func (a *API) request(ctx context.Context, c call, token string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, context.DeadlineExceeded)
	defer cancel()
	var body io.Reader = http.NoBody
	if c.in != nil {
		text, err := json.Marshal(c.in)
		if err != nil {
			return &Error{Op: c.op, Code: Invalid, Err: err}
		}
		body = bytes.NewReader(text)
	}
	target := a.o.URL + c.path
	if len(c.query) > 0 {
		target += "?" + c.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, c.method, target, body)
	if err != nil {
		return &Error{Op: c.op, Code: Invalid, Err: err}
	}
	if c.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	r, err := a.http.Do(req)
	if err != nil {
		return unavailable(c.op, "", err)
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(r.Body, maxAnswerBytes+1))
	switch {
	case err != nil:
		return unavailable(c.op, "the answer was cut off", err)
	case len(answer) > maxAnswerBytes:
		return &Error{Op: c.op, Code: TooLarge, Detail: "the answer has more than 64 MiB", Status: r.StatusCode}
	case r.StatusCode/100 != 2:
		return problemError(c.op, r, answer)
	case c.out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, c.out); err != nil {
		return &Error{Op: c.op, Code: Internal, Detail: "the answer is not what was expected", Status: r.StatusCode, Err: err}
	}
	return nil
}

// pageSize is how many items are asked for at once.
const pageSize = "100"

// list iterates over a list, reading pages as the caller gets to them. It ends after an
// error.
func list[T any](ctx context.Context, a *API, c call) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		query := url.Values{"limit": {pageSize}}
		for k, v := range c.query {
			query[k] = v
		}
		for {
			var page struct {
				Data       []T     `json:"data"`
				NextCursor *string `json:"nextCursor"`
			}
			c.query, c.method, c.out = query, http.MethodGet, &page
			if err := a.do(ctx, c); err != nil {
				yield(nil, err)
				return
			}
			for i := range page.Data {
				if !yield(&page.Data[i], nil) {
					return
				}
			}
			if page.NextCursor == nil {
				return
			}
			query.Set("cursor", *page.NextCursor)
			query.Del("after") // the cursor remembers it
			query.Del("around")
		}
	}
}

// at returns the API path of these parts, escaped: ids may come from anywhere.
func at(parts ...string) string {
	path := "/api"
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return path
}
