package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/parleymq/parley/chat"
)

// statuses is the one table from codes to HTTP status.
var statuses = map[chat.Code]int{
	chat.Invalid:         http.StatusBadRequest,
	chat.Unauthenticated: http.StatusUnauthorized,
	chat.Forbidden:       http.StatusForbidden,
	chat.NotFound:        http.StatusNotFound,
	chat.Conflict:        http.StatusConflict,
	chat.TooLarge:        http.StatusRequestEntityTooLarge,
	chat.Quota:           http.StatusTooManyRequests,
	chat.Unsupported:     http.StatusNotImplemented,
	chat.Unavailable:     http.StatusServiceUnavailable,
	chat.Internal:        http.StatusInternalServerError,
	codeMethod:           http.StatusMethodNotAllowed,
	codeTimeout:          http.StatusRequestTimeout,
	codeMediaType:        http.StatusUnsupportedMediaType,
}

// Codes of errors that only HTTP has.
const (
	codeMethod    chat.Code = "method_not_allowed"
	codeTimeout   chat.Code = "timeout" // the body arrived too slowly
	codeMediaType chat.Code = "unsupported_media_type"
)

const problemType = "application/problem+json"

// Problem is the body of every error answer (RFC 9457; its type is about:blank).
type Problem struct {
	Code           chat.Code    `json:"code" doc:"What happened: a stable code for programs." example:"invalid"`
	Title          string       `json:"title" doc:"The HTTP status in words." example:"Bad Request"`
	Status         int          `json:"status" doc:"The HTTP status." example:"400"`
	Detail         string       `json:"detail" doc:"One sentence about this occurrence, for people." example:"content: must not be empty"`
	Errors         []FieldError `json:"errors,omitempty" doc:"Which inputs are at fault."`
	ConversationID ID           `json:"conversationId,omitempty" doc:"Conflict: the direct conversation that exists already."`

	header http.Header
}

// FieldError is one input that is at fault.
type FieldError struct {
	Field   string `json:"field" doc:"The field of the body, or the parameter; body or query for the whole. Something that does not exist is named by its kind, such as messageId for an id in the path." example:"content"`
	Message string `json:"message" doc:"What is wrong with it, with the limit if there is one." example:"must not be empty"`
}

// Error, GetStatus, GetHeaders and ContentType make it an error for huma.
func (p *Problem) Error() string           { return string(p.Code) + ": " + p.Detail }
func (p *Problem) GetStatus() int          { return p.Status }
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType implements huma.ContentTypeFilter.
func (p *Problem) ContentType(string) string { return problemType }

func newProblem(code chat.Code, detail string) *Problem {
	status := statuses[code]
	return &Problem{Code: code, Status: status, Title: http.StatusText(status), Detail: detail, header: http.Header{}}
}

// fieldProblem is the problem of one input.
func fieldProblem(code chat.Code, field, message string) *Problem {
	p := newProblem(code, field+": "+message)
	p.Errors = []FieldError{{Field: field, Message: message}}
	return p
}

// problemOf turns an error into the answer to the client.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	code := chat.CodeOf(err)
	if errors.Is(err, context.Canceled) && code == chat.Internal {
		code = chat.Unavailable // the client has gone, or we are: nobody's fault
	}
	if statuses[code] == 0 {
		code = chat.Internal
	}
	var e *chat.Error
	p = newProblem(code, chat.PublicMessage(&chat.Error{Code: code}))
	if errors.As(err, &e) && code != chat.Internal {
		p.Detail = chat.PublicMessage(err)
		if e.Field != "" && e.Msg != "" {
			p.Errors = []FieldError{{Field: e.Field, Message: e.Msg}}
		}
		if !e.Existing.IsZero() {
			p.ConversationID = idOf(e.Existing)
		}
	}
	switch code {
	case chat.Unauthenticated:
		p.header.Set("WWW-Authenticate", `Bearer realm="parley"`)
	case chat.Quota, chat.Unavailable:
		after := 2 * time.Second
		if e != nil {
			after = cmp.Or(e.RetryAfter, after)
		}
		p.header.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(after.Seconds())))))
	case chat.Invalid, chat.Forbidden, chat.NotFound, chat.Conflict, chat.TooLarge, chat.Unsupported, chat.Internal:
	}
	return p
}

// write writes the answer to a request that has not reached huma.
func (p *Problem) write(w http.ResponseWriter) {
	h := w.Header()
	for k, v := range p.header {
		h[k] = v
	}
	h.Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // the client has gone
}

// huma's own errors take the same form. These are the hooks it offers; they are
// package variables, and this package alone uses huma.
func init() {
	huma.NewError = func(status int, msg string, errs ...error) huma.StatusError {
		return humaProblem(status, msg, errs)
	}
	huma.NewErrorWithContext = func(_ huma.Context, status int, msg string, errs ...error) huma.StatusError {
		return humaProblem(status, msg, errs)
	}
	huma.ValidateStrictCasing = true
}

const maxFieldErrors = 20

func humaProblem(status int, msg string, errs []error) *Problem {
	var p *Problem
	switch {
	case status == http.StatusRequestEntityTooLarge:
		return fieldProblem(chat.TooLarge, "body", "is over its limit of "+bodyLimitText(msg))
	case status == http.StatusUnsupportedMediaType:
		return newProblem(codeMediaType, "send the body as application/json")
	case status == http.StatusRequestTimeout:
		return newProblem(codeTimeout, "the request body arrived too slowly")
	case msg == "request body is required":
		return fieldProblem(chat.Invalid, "body", "is required")
	case status == http.StatusBadRequest, status == http.StatusUnprocessableEntity:
		p = newProblem(chat.Invalid, msg)
	case msg == "cannot read request body": // cut off, or badly framed
		return newProblem(chat.Invalid, "the request body could not be read")
	default:
		return problemOf(chat.Internal)
	}
	for _, err := range errs {
		p.Errors = append(p.Errors, fieldError(err))
	}
	// By name, since huma finds unknown fields in random order; one complaint for each.
	slices.SortStableFunc(p.Errors, func(a, b FieldError) int { return strings.Compare(a.Field, b.Field) })
	p.Errors = slices.CompactFunc(p.Errors, func(a, b FieldError) bool { return a.Field == b.Field })
	p.Errors = p.Errors[:min(len(p.Errors), maxFieldErrors)]
	if len(p.Errors) > 0 {
		p.Detail = strings.TrimPrefix(p.Errors[0].Field+": "+p.Errors[0].Message, ": ")
	}
	return p
}

func bodyLimitText(msg string) string {
	_, limit, _ := strings.Cut(msg, "limit=")
	n, err := strconv.Atoi(strings.TrimSuffix(limit, " bytes"))
	if err != nil {
		return "bytes"
	}
	return strconv.Itoa(n-1) + " bytes" // huma refuses what reaches its limit
}

// fieldError names the field as the client wrote it: huma's "body.content" and
// "query.limit" are "content" and "limit", and a missing field is itself at fault,
// not the object around it.
func fieldError(err error) FieldError {
	var d huma.ErrorDetailer
	if !errors.As(err, &d) {
		return FieldError{Message: clip(err.Error(), 200)}
	}
	detail := d.ErrorDetail()
	f := FieldError{Field: detail.Location, Message: clip(detail.Message, 200)}
	for _, in := range []string{"body.", "query.", "path.", "header."} {
		if rest, ok := strings.CutPrefix(f.Field, in); ok {
			f.Field = rest
			break
		}
	}
	name, missing := strings.CutPrefix(f.Message, "expected required property ")
	switch {
	case missing:
		name, _, _ = strings.Cut(name, " ")
		f.Field, f.Message = strings.TrimPrefix(f.Field+"."+name, "body."), "is required"
	case strings.HasPrefix(f.Message, numberTooLarge):
		f.Field = cmp.Or(strings.TrimPrefix(f.Message, numberTooLarge), "body")
		f.Message = "is too large a number"
	case strings.HasPrefix(f.Message, "required "): // a parameter
		f.Message = "is required"
	case f.Message == validation.MsgUnexpectedProperty || f.Message == "unknown query parameter":
		f.Message = "is unknown"
	}
	f.Field = clip(f.Field, 100)
	return f
}

// clip shortens a text that may come from outside.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
