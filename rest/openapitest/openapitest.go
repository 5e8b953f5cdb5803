// Package openapitest checks requests and answers against the OpenAPI document. For
// tests only.
package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Checker checks against a document. It is safe for concurrent use.
type Checker struct {
	doc document

	mu       sync.Mutex
	compiler *jsonschema.Compiler          // mu guards
	schemas  map[string]*jsonschema.Schema // mu guards: by place in the document
}

type document struct {
	Paths      map[string]map[string]Operation
	Components struct{ Responses map[string]Response }
}

// Operation is one operation of the document.
type Operation struct {
	OperationID, Summary, Description string

	Tags        []string
	Parameters  []Parameter
	RequestBody *struct{ Content map[string]Media }
	Responses   map[string]Response
	Security    []map[string][]string
}

// Parameter is a parameter of an operation.
type Parameter struct {
	Name, In string
	Required bool
	Schema   struct{ Type any }
}

// Response is what an operation may answer.
type Response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]Media
}

// Media is a body in one media type.
type Media struct{ Schema, Example json.RawMessage }

// New reads a document, as /openapi.json serves it.
func New(text []byte) (*Checker, error) {
	c := &Checker{compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	if err := json.Unmarshal(text, &c.doc); err != nil {
		return nil, err
	}
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	return c, c.compiler.AddResource("openapi.json", resource)
}

// Each calls f with every operation.
func (c *Checker) Each(f func(method, path string, op Operation)) {
	for path, methods := range c.doc.Paths {
		for method, op := range methods {
			f(strings.ToUpper(method), path, op)
		}
	}
}

// Resolve returns the response that a reference among responses means.
func (c *Checker) Resolve(r Response) Response {
	if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
		return c.doc.Components.Responses[name]
	}
	return r
}

// Check reports what is wrong with an answer, and with the request that led to it if
// that was successful, or nil. Paths that the document does not have are not its affair,
// unless the answer is a problem.
func (c *Checker) Check(method, target string, request []byte, status int, contentType string, answer []byte) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	what := method + " " + u.Path + " = " + strconv.Itoa(status)
	media, _, _ := mime.ParseMediaType(contentType)
	path, op := c.find(method, u.Path)
	if op == nil || status == 405 {
		if media == "application/problem+json" {
			return wrap(what, c.validate("/components/schemas/Problem", answer))
		}
		return nil
	}
	at := pointer("paths", path, strings.ToLower(method))
	response, ok := op.Responses[strconv.Itoa(status)]
	if !ok {
		return fmt.Errorf("%s: the OpenAPI document of %s knows no such answer: %.300s", what, op.OperationID, answer)
	}
	in := at + pointer("responses", strconv.Itoa(status))
	if name, ok := strings.CutPrefix(response.Ref, "#"); ok {
		in, response = name, c.Resolve(response)
	}
	if err := wrap(what, c.body(in, response.Content, media, answer)); err != nil {
		return err
	}
	if status/100 != 2 {
		return nil
	}
	if op.RequestBody == nil {
		if len(request) > 0 {
			return fmt.Errorf("%s: has a body, and the OpenAPI document of %s has none", what, op.OperationID)
		}
	} else if err := c.body(at+"/requestBody", op.RequestBody.Content, "application/json", request); err != nil {
		return fmt.Errorf("the request %s %s: %w", method, u.Path, err)
	}
	return wrap(what, c.query(at, op, u.Query()))
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s is not what the OpenAPI document says: %w", what, err)
	}
	return nil
}

func (c *Checker) body(at string, content map[string]Media, media string, text []byte) error {
	if len(content) == 0 {
		if len(text) > 0 {
			return fmt.Errorf("has a body, and should have none: %.300s", text)
		}
		return nil
	}
	if _, ok := content[media]; !ok {
		return fmt.Errorf("has the content type %q", media)
	}
	return c.validate(at+pointer("content", media, "schema"), text)
}

func (c *Checker) query(at string, op *Operation, query url.Values) error {
	for name, values := range query {
		i := -1
		for j, p := range op.Parameters {
			if p.Name == name && p.In == "query" {
				i = j
			}
		}
		if i < 0 {
			return fmt.Errorf("there is no parameter %q", name)
		}
		text := values[0]
		var value []byte
		switch op.Parameters[i].Schema.Type {
		case "integer", "number", "boolean":
			value = []byte(text)
		case "string":
			value, _ = json.Marshal(text)
		default: // a list: its own form is not checked
			continue
		}
		if err := c.validate(at+pointer("parameters", strconv.Itoa(i), "schema"), value); err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
	}
	return nil
}

// Validate reports what is wrong with a value by the schema at a JSON pointer.
func (c *Checker) Validate(at string, text []byte) error { return c.validate(at, text) }

func (c *Checker) validate(at string, text []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("%w: %.300s", err, text)
	}
	c.mu.Lock()
	schema := c.schemas[at]
	if schema == nil {
		if schema, err = c.compiler.Compile("openapi.json#" + at); err == nil {
			c.schemas[at] = schema
		}
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if err := schema.Validate(value); err != nil {
		return fmt.Errorf("%w: %.300s", err, text)
	}
	return nil
}

// find returns the operation of a path as it was asked for; one without parameters
// goes before one that has some.
func (c *Checker) find(method, path string) (string, *Operation) {
	if op, ok := c.doc.Paths[path][strings.ToLower(method)]; ok {
		return path, &op
	}
	levels := strings.Split(path, "/")
	best, fewest := "", len(path)
	for template := range c.doc.Paths {
		parts := strings.Split(template, "/")
		if n := strings.Count(template, "{"); n < fewest && fits(parts, levels) {
			best, fewest = template, n
		}
	}
	op, ok := c.doc.Paths[best][strings.ToLower(method)]
	if !ok {
		return "", nil
	}
	return best, &op
}

func fits(template, levels []string) bool {
	if len(template) != len(levels) {
		return false
	}
	for i, part := range template {
		if part != levels[i] && !strings.HasPrefix(part, "{") {
			return false
		}
	}
	return true
}

// pointer makes a JSON pointer (RFC 6901) in a URL's fragment.
func pointer(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(p)))
	}
	return b.String()
}

// Pointer makes a JSON pointer to a place in the document, for Validate.
func Pointer(parts ...string) string { return pointer(parts...) }
