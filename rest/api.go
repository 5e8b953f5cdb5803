package rest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/parleymq/parley/chat"
)

func apiConfig(version string) huma.Config {
	c := huma.DefaultConfig("Parley", version)
	// /openapi.json is served by operations; nothing else of huma's own is.
	c.OpenAPIPath, c.DocsPath, c.SchemasPath = "", "", ""
	c.CreateHooks = nil // no $schema in answers
	c.Formats = map[string]huma.Format{jsonType: strictJSON, "json": strictJSON}
	c.RejectUnknownQueryParameters = true
	c.AllowAdditionalPropertiesByDefault = true // answers may grow; bodies say otherwise
	c.Info.Description = "Messaging over HTTP: accounts, conversations and history. " +
		"Live delivery is over MQTT: messages sent here reach MQTT subscribers, and messages sent over MQTT are found here.\n\n" +
		"Errors are `application/problem+json` (RFC 9457) with a stable `code`. Lists are `{\"data\":[…],\"nextCursor\":…}`. " +
		"Requests with unknown fields or parameters are refused; new fields may be added to answers at any time."
	c.Info.License = &huma.License{Name: "See LICENSE"}
	c.Servers = []*huma.Server{{URL: "/", Description: "This server"}}
	c.Tags = []*huma.Tag{
		{Name: "users", Description: "Accounts."},
		{Name: "sessions", Description: "Logins, one per device."},
		{Name: "conversations", Description: "Direct conversations and groups."},
		{Name: "messages", Description: "Sending and history."},
		{Name: "presence", Description: "Who is online."},
		{Name: "operations", Description: "For operators of the server."},
	}
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		bearer: {Type: "http", Scheme: "bearer", BearerFormat: "JWT", Description: "An access token from POST /api/sessions."},
	}
	c.Components.Responses = problemResponses(c.Components.Schemas)
	return c
}

// numberTooLarge, followed by the field, is how strictJSON reports which number in a body
// does not fit: huma knows only that it is in the body.
const numberTooLarge = "too large a number in body."

// A jsonAppender is written by hand because it is large and often asked for.
type jsonAppender interface{ appendJSON(b []byte) []byte }

// encodings are buffers for the answers of jsonAppenders. The garbage collector takes those that
// were not used for a while.
var encodings = sync.Pool{New: func() any { return new([]byte) }}

// strictJSON is encoding/json that refuses what it would change: invalid UTF-8, and what
// chat.CheckJSON finds.
var strictJSON = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		if a, ok := v.(jsonAppender); ok {
			b := encodings.Get().(*[]byte)
			defer encodings.Put(b)
			*b = append(a.appendJSON((*b)[:0]), '\n')
			_, err := w.Write(*b)
			return err
		}
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		return e.Encode(v)
	},
	Unmarshal: func(data []byte, v any) error {
		if !utf8.Valid(data) {
			return errors.New("must be valid UTF-8")
		}
		data = chat.TrimByteOrderMark(data)
		err := json.Unmarshal(data, v)
		var te *json.UnmarshalTypeError
		switch {
		case errors.As(err, &te): // the schema allows all but numbers that do not fit
			return errors.New(numberTooLarge + te.Field)
		case err != nil:
			return errors.New("must be JSON: " + err.Error())
		}
		return chat.CheckJSON(data)
	},
}

// problemResponses describes the answer for each error code.
func problemResponses(r huma.Registry) map[string]*huma.Response {
	schema := r.Schema(reflect.TypeFor[Problem](), true, "Problem")
	out := map[string]*huma.Response{}
	details := map[chat.Code]string{
		chat.Invalid: "content: must not be empty", chat.Unauthenticated: "the access token is not valid, or no longer",
		chat.Forbidden: "not a participant of this conversation", chat.NotFound: "there is no such message", chat.Conflict: "username: is taken",
		chat.TooLarge: "content: has 70000 bytes, limit 65536", chat.Quota: "too many of these from your address; wait a moment",
		chat.Unsupported: "not offered yet", codeMethod: "this path does not support the method",
		codeTimeout: "the request body arrived too slowly", codeMediaType: "send the body as application/json",
	}
	for code, status := range statuses {
		example := newProblem(code, cmp.Or(details[code], chat.PublicMessage(&chat.Error{Code: code})))
		if code == chat.Invalid {
			example.Errors = []FieldError{{Field: "content", Message: "must not be empty"}}
		}
		res := &huma.Response{
			Description: http.StatusText(status) + ": `" + string(code) + "`",
			Content:     map[string]*huma.MediaType{problemType: {Schema: schema, Example: example}},
		}
		switch code {
		case chat.Quota, chat.Unavailable:
			res.Headers = map[string]*huma.Param{"Retry-After": {Description: "Seconds to wait.", Schema: &huma.Schema{Type: huma.TypeInteger}}}
		case chat.Unauthenticated:
			res.Headers = map[string]*huma.Param{"WWW-Authenticate": {Description: "Bearer (RFC 6750).", Schema: &huma.Schema{Type: huma.TypeString}}}
		}
		out[string(code)] = res
	}
	return out
}

// secured returns op restricted to callers with an access token.
func (s *server) secured(op huma.Operation) huma.Operation {
	op.Security = []map[string][]string{{bearer: {}}}
	op.Middlewares = append(op.Middlewares, s.authenticate)
	return op
}

// register adds an operation. It gives each request a deadline, turns errors into problems,
// and documents which codes to expect: those given, and those that any operation may have.
func register[I, O any](s *server, op huma.Operation, do func(context.Context, *I) (*O, error), codes ...chat.Code) {
	codes = append(codes, chat.Invalid, chat.Unavailable, chat.Internal)
	if op.Security != nil {
		codes = append(codes, chat.Unauthenticated)
	}
	if _, hasBody := reflect.TypeFor[I]().FieldByName("Body"); hasBody {
		codes = append(codes, chat.TooLarge, codeTimeout, codeMediaType)
		if op.MaxBodyBytes == 0 {
			op.MaxBodyBytes = maxBodyBytes + 1 // huma refuses what reaches it
		}
	}
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	for _, code := range codes {
		op.Responses[strconv.Itoa(statuses[code])] = &huma.Response{Ref: "#/components/responses/" + string(code)}
	}
	described := op
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := chat.WithDeadline(ctx, requestTime, "rest."+described.OperationID)
		defer cancel()
		out, err := do(ctx, in)
		if err != nil {
			return nil, s.explain(ctx, &described, err)
		}
		return out, nil
	})
	for status, res := range op.Responses { // huma has added the successful one
		if strings.HasPrefix(status, "2") {
			if res.Headers == nil {
				res.Headers = map[string]*huma.Param{}
			}
			res.Headers[epochHeader] = &huma.Param{Description: epochDoc, Schema: &huma.Schema{Type: huma.TypeString}}
		}
	}
}

const (
	epochHeader = "Parley-Epoch"
	epochDoc    = "Within which each seq counts. Another one: the database was set back to an earlier moment, or replaced; forget every seq."
)

// op describes an operation; the route is its method and path, such as "GET /api/users".
func op(tag, route, id, summary, description string) huma.Operation {
	method, path, _ := strings.Cut(route, " ")
	return huma.Operation{Method: method, Path: path, OperationID: id, Tags: []string{tag}, Summary: summary, Description: description}
}

// created returns op with status 201.
func created(op huma.Operation) huma.Operation {
	op.DefaultStatus = http.StatusCreated
	return op
}

// big returns op for a body that may hold thousands of ids.
func big(op huma.Operation) huma.Operation {
	op.MaxBodyBytes = maxBigBodyBytes + 1
	return op
}

// Inputs of operations: a body, an id in the path, or both.
type (
	with[T any] struct{ Body T }
	byID        struct {
		ID ID `path:"id"`
	}
	byIDWith[T any] struct {
		ID   ID `path:"id"`
		Body T
	}
)

// body is an answer with nothing but a body.
type body[T any] struct{ Body T }

// located is the answer of an operation that has created something.
type located[T any] struct {
	Status   int
	Location string `header:"Location" doc:"Where to read it."`
	Body     T
}

// reply converts the result of a call into an answer with show.
func reply[T, R any](show func(*T) R) func(*T, error) (*body[R], error) {
	return func(v *T, err error) (*body[R], error) {
		if err != nil {
			return nil, err
		}
		return &body[R]{show(v)}, nil
	}
}
