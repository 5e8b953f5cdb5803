package chat

import (
	"context"
	"errors"
	"time"
)

// Code is the kind of an error. A Code is itself an error, so errors.Is(err,
// chat.NotFound) works. Each interface maps every code once: broker/reason.go to MQTT
// reason codes, rest/problem.go to HTTP statuses.
type Code string

// The codes. Their texts are stable: REST sends them as a problem's "code".
const (
	Invalid         Code = "invalid"         // the request is wrong; repeating it does not help
	Unauthenticated Code = "unauthenticated" // the caller is not known
	Forbidden       Code = "forbidden"       // the caller is known, and may not do this
	NotFound        Code = "not_found"       // there is no such thing, or not for this user
	Conflict        Code = "conflict"        // it exists already, or contradicts what is stored
	TooLarge        Code = "too_large"       // over a size limit
	Quota           Code = "quota"           // over a rate or count limit; see RetryAfter
	Unsupported     Code = "unsupported"     // understood, but not offered
	Unavailable     Code = "unavailable"     // something needed cannot be reached; the same request may be repeated later
	Internal        Code = "internal"        // a fault of the server
)

// Codes lists every code, for tests that every interface maps them all.
func Codes() []Code {
	return []Code{Invalid, Unauthenticated, Forbidden, NotFound, Conflict, TooLarge, Quota, Unsupported, Unavailable, Internal}
}

// Error returns the code's text.
func (c Code) Error() string { return string(c) }

// Error is the one error type that packages return to each other.
type Error struct {
	Code       Code
	Op         string        // the operation, such as "store.CreateDirect"; for the log
	Field      string        // the input at fault, such as "content"; may be empty
	Msg        string        // one sentence that may be shown to the peer; names the limit where there is one
	Existing   ID            // Conflict: the direct conversation that exists already
	RetryAfter time.Duration // Quota, Unavailable: when to try again; 0: the caller's own back-off
	Err        error         // the cause; for the log, never shown to a peer
}

// Error returns all fields, for the log.
func (e *Error) Error() string {
	s := string(e.Code)
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Msg != "" {
		s += ": " + e.Public()
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Public returns what a peer may see: the field and the message.
func (e *Error) Public() string {
	if e.Field != "" {
		return e.Field + ": " + e.Msg
	}
	return e.Msg
}

// Unwrap returns the code and the cause, so that errors.Is finds either.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Code, e.Err}
	}
	return []error{e.Code}
}

// CodeOf returns the code of err: its Error's, Unavailable for a deadline that was
// exceeded, and Internal for anything else. For nil it is "".
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	var c Code
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.As(err, &c):
		return c
	case errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

// PublicMessage returns the sentence about err that may be shown to a peer. It is never
// empty for a non-nil error and never contains an internal cause.
func PublicMessage(err error) string {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e) && e.Code != Internal && e.Msg != "":
		return e.Public()
	}
	switch CodeOf(err) {
	case Unavailable:
		return "the service cannot do this right now; try again"
	case Internal:
		return "something went wrong on our side"
	}
	return string(CodeOf(err))
}

// invalid returns an Invalid error about field.
func invalid(field, msg string) *Error { return &Error{Code: Invalid, Field: field, Msg: msg} }
