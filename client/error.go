package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/eclipse/paho.golang/paho"
)

// Code is the kind of an Error. A Code is itself an error, so that
// errors.Is(err, client.Forbidden) works. A newer server may have others.
type Code string

// The codes. The first ten are the server's; the rest is said by this package.
const (
	Invalid         Code = "invalid"         // the request itself is wrong; repeating it won't help
	Unauthenticated Code = "unauthenticated" // the token or password is wrong, or no longer good
	Forbidden       Code = "forbidden"       // one may not, such as write where one is not a member
	NotFound        Code = "not_found"       // there is no such thing, or not for this user
	Conflict        Code = "conflict"        // it exists already, or differs from what is there
	TooLarge        Code = "too_large"       // over a size limit
	Quota           Code = "quota"           // over a rate or count limit; try later
	Unsupported     Code = "unsupported"     // understood, and not offered
	Unavailable     Code = "unavailable"     // the server cannot be reached, or cannot serve; the same request may be repeated
	Internal        Code = "internal"        // the server's fault

	Closed    Code = "closed"     // the client has been closed
	TakenOver Code = "taken_over" // another program has connected with the same user and ClientID
)

// Error returns the code's text.
func (c Code) Error() string { return string(c) }

// Error is every error of this package but those of contexts, which come unwrapped
// with errors.Is as well.
type Error struct {
	Op             string        // what was attempted, such as "send"
	Code           Code          // what happened; for programs
	Detail         string        // the same in a sentence, for people; names the limit where there is one
	Field          string        // the input at fault, such as "content"; may be empty
	ConversationID ID            // Conflict of CreateDirect: the conversation that exists already
	RetryAfter     time.Duration // Quota, Unavailable: when to try again; 0: the server did not say
	Status         int           // the HTTP status; 0 over MQTT
	Err            error         // the cause, such as the network's; may be nil
}

// Error returns everything known.
func (e *Error) Error() string {
	s := "parley: " + e.Op + ": " + string(e.Code)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the code and the cause, so that errors.Is finds either.
func (e *Error) Unwrap() []error {
	if e.Err != nil {
		return []error{e.Code, e.Err}
	}
	return []error{e.Code}
}

// CodeOf returns the code of err: its Error's, or "".
func CodeOf(err error) Code {
	var e *Error
	var c Code
	switch {
	case errors.As(err, &e):
		return e.Code
	case errors.As(err, &c):
		return c
	}
	return ""
}

// unavailable is an error of the network, or of a context that ended.
func unavailable(op, detail string, err error) *Error {
	return &Error{Op: op, Code: Unavailable, Detail: detail, Err: err}
}

// problem is application/problem+json as the server writes it (RFC 9457).
type problem struct {
	Code   Code   `json:"code"`
	Detail string `json:"detail"`
	Errors []struct {
		Field string `json:"field"`
	} `json:"errors"`
	ConversationID ID `json:"conversationId"`
}

// statuses is for answers that are none of the server's: from a proxy before it.
var statuses = map[int]Code{
	http.StatusBadRequest: Invalid, http.StatusUnauthorized: Unauthenticated, http.StatusForbidden: Forbidden, http.StatusNotFound: NotFound,
	http.StatusConflict: Conflict, http.StatusRequestEntityTooLarge: TooLarge, http.StatusTooManyRequests: Quota,
	http.StatusNotImplemented: Unsupported, http.StatusBadGateway: Unavailable, http.StatusServiceUnavailable: Unavailable, http.StatusGatewayTimeout: Unavailable,
}

// problemError is an HTTP answer that is not a success.
func problemError(op string, r *http.Response, body []byte) *Error {
	e := &Error{Op: op, Status: r.StatusCode}
	var p problem
	if json.Unmarshal(body, &p) == nil && p.Code != "" {
		e.Code, e.Detail, e.ConversationID = p.Code, p.Detail, p.ConversationID
		if len(p.Errors) > 0 {
			e.Field = p.Errors[0].Field
		}
	} else {
		e.Detail = "HTTP " + r.Status
		switch code, known := statuses[r.StatusCode]; {
		case known:
			e.Code = code
		case r.StatusCode >= 500:
			e.Code = Internal
		default:
			e.Code = Invalid
		}
	}
	if s, err := strconv.Atoi(r.Header.Get("Retry-After")); err == nil && s > 0 {
		e.RetryAfter = time.Duration(min(s, 3600)) * time.Second
	}
	return e
}

// Reason codes of MQTT 5.0 (2.4) that the client acts on.
const (
	reasonMalformed       = 0x81
	reasonProtocolError   = 0x82
	reasonBadCredentials  = 0x86
	reasonNotAuthorized   = 0x87
	reasonTakenOver       = 0x8E
	reasonReceiveExceeded = 0x93
	reasonTooLarge        = 0x95
)

// reasons is what a code in CONNACK, PUBACK, SUBACK or DISCONNECT means where
// nothing else tells.
var reasons = map[byte]Code{
	0x80: Internal, reasonMalformed: Invalid, reasonProtocolError: Invalid, 0x83: Conflict, 0x84: Unsupported, 0x85: Invalid, reasonBadCredentials: Unauthenticated,
	reasonNotAuthorized: Forbidden, 0x88: Unavailable, 0x89: Unavailable, 0x8B: Unavailable, 0x8D: Unavailable, reasonTakenOver: TakenOver, 0x8F: Invalid,
	0x90: Invalid, reasonReceiveExceeded: Invalid, 0x94: Invalid, reasonTooLarge: TooLarge, 0x97: Quota, 0x99: Invalid, 0x9A: Unsupported,
	0x9B: Unsupported, 0x9C: Unavailable, 0x9D: Unavailable, 0x9E: Unsupported, 0x9F: Quota, 0xA1: Unsupported, 0xA2: Unsupported,
}

func reasonError(op string, reason byte, detail string) *Error {
	code, known := reasons[reason]
	if !known {
		code = Internal
	}
	if detail == "" {
		detail = fmt.Sprintf("MQTT reason code 0x%02X", reason)
	}
	return &Error{Op: op, Code: code, Detail: detail}
}

// publishError is the refusal in a PUBACK, or nil. The server names its code and
// the field in user properties, since several codes share one of MQTT's.
func publishError(op string, r *paho.PublishResponse) error {
	if r.ReasonCode < 0x80 {
		return nil
	}
	e := reasonError(op, r.ReasonCode, "")
	if p := r.Properties; p != nil {
		if p.ReasonString != "" {
			e.Detail = p.ReasonString
		}
		if code := Code(p.User.Get("code")); code != "" {
			e.Code = code
		}
		e.Field = p.User.Get("field")
	}
	return e
}

// contextError is what a call returns whose context has ended.
func contextError(ctx context.Context, op, detail string) error {
	return unavailable(op, strings.TrimSpace(detail), context.Cause(ctx))
}
