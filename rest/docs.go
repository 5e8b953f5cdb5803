package rest

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/parleymq/parley/asyncapi"
)

//go:embed docs
var docsFiles embed.FS

// docsPolicy lets the page load its own style and script, and nothing else.
const docsPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docsPage is what page.html shows: both documents, the OpenAPI one in reading order. The
// template formats descriptions with prose.
type docsPage struct {
	API      *huma.OpenAPI
	MQTT     *asyncapi.Document
	Groups   []docsGroup
	Problems []docsProblem
	Schemas  []docsSchema
}

type docsGroup struct {
	*huma.Tag
	Operations []docsOperation
}

type docsOperation struct {
	*huma.Operation
	Fields, Body []docsField // of the parameters, and of the body
	Answers      []docsAnswer
	Problems     []docsProblem
	Curl         string
	Examples     []docsExample
}

type docsField struct {
	Name, In string
	Type     docsType
	Mark     string // "required" of what is sent, "optional" of what is answered
	About    string
	Limits   []string
}

// mark returns what a reader would not assume of a field: that it is required in a
// request, or optional in an answer.
func mark(sent, required bool) string {
	switch {
	case sent && required:
		return "required"
	case !sent && !required:
		return "optional"
	}
	return ""
}

// docsType is a type in words; Link names the schema that it is, or consists of.
type docsType struct{ Before, Link, After string }

type docsAnswer struct {
	Status, About string
	Type          docsType
}

type docsExample struct {
	Title   string
	Payload json.RawMessage
}

type docsProblem struct {
	*Problem
	Headers []string
}

type docsSchema struct {
	Name, About string
	Fields      []docsField
}

// docs serves the page, which is made when it is first asked for.
func (s *server) docs(router chi.Router) {
	page := sync.OnceValue(func() []byte {
		p := newDocsPage(s.openAPI())
		t := template.New("page.html").Funcs(template.FuncMap{
			"prose": prose, "json": highlight, "fields": mqttFields, "command": p.mqttCommand,
			"text": func(payload json.RawMessage) (s string) { _ = json.Unmarshal(payload, &s); return s },
			"hex":  func(code int) string { return fmt.Sprintf("0x%02X", code) },
		})
		var b bytes.Buffer
		if err := template.Must(t.ParseFS(docsFiles, "docs/page.html")).Execute(&b, p); err != nil {
			panic("rest: the page at /docs: " + err.Error()) // a bug, found by the first test
		}
		return b.Bytes()
	})
	serve := serveDocument("text/html; charset=utf-8", page)
	router.Get("/docs", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", docsPolicy)
		serve(w, r)
	})
	for name, contentType := range map[string]string{"style.css": "text/css; charset=utf-8", "script.js": "text/javascript; charset=utf-8"} {
		router.Get("/docs/"+name, serveDocument(contentType, func() []byte {
			text, _ := docsFiles.ReadFile("docs/" + name) // embedded
			return text
		}))
	}
}

func newDocsPage(api *huma.OpenAPI) *docsPage {
	p := &docsPage{API: api, MQTT: asyncapi.Read()}
	d := docsBuilder{api}
	for _, tag := range api.Tags {
		g := docsGroup{Tag: tag}
		each(api, func(method, path string, op *huma.Operation) {
			if slices.Contains(op.Tags, tag.Name) {
				g.Operations = append(g.Operations, d.operation(op))
			}
		})
		p.Groups = append(p.Groups, g)
	}
	for name := range api.Components.Responses {
		p.Problems = append(p.Problems, d.problem(name))
	}
	slices.SortFunc(p.Problems, func(a, b docsProblem) int {
		return cmp.Or(cmp.Compare(a.Status, b.Status), cmp.Compare(a.Code, b.Code))
	})
	for _, name := range sortedKeys(api.Components.Schemas.Map()) {
		ref := &huma.Schema{Ref: schemaRef + name}
		p.Schemas = append(p.Schemas, docsSchema{name, api.Components.Schemas.SchemaFromRef(ref.Ref).Description, d.fields(ref)})
	}
	return p
}

// OperationsOf returns the operations of a channel.
func (p *docsPage) OperationsOf(channel string) (list []asyncapi.Member[asyncapi.Operation]) {
	for _, o := range p.MQTT.Operations {
		if o.Value.Channel.Name() == channel {
			list = append(list, o)
		}
	}
	return list
}

const schemaRef = "#/components/schemas/"

// docsBuilder reads the OpenAPI document.
type docsBuilder struct{ api *huma.OpenAPI }

func (d docsBuilder) operation(op *huma.Operation) docsOperation {
	out := docsOperation{Operation: op}
	for _, p := range op.Parameters {
		f := d.field(p.Name, p.Schema)
		f.In, f.Mark, f.About = p.In, mark(true, p.Required), cmp.Or(p.Description, p.Schema.Description)
		out.Fields = append(out.Fields, f)
	}
	var body json.RawMessage
	if op.RequestBody != nil {
		if m := op.RequestBody.Content[jsonType]; m != nil {
			out.Body = d.fields(m.Schema)
			body, _ = m.Example.(json.RawMessage)
		}
	}
	out.Curl = curl(op, body)
	for _, status := range sortedKeys(op.Responses) {
		r := op.Responses[status]
		if code, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
			out.Problems = append(out.Problems, d.problem(code))
			continue
		}
		a := docsAnswer{Status: status, About: r.Description}
		if m := r.Content[jsonType]; m != nil {
			a.Type = d.typeOf(m.Schema)
			if text, ok := m.Example.(json.RawMessage); ok {
				out.Examples = append(out.Examples, docsExample{status + " " + r.Description, text})
			}
		}
		out.Answers = append(out.Answers, a)
	}
	return out
}

// problem describes one of the ways in which operations fail.
func (d docsBuilder) problem(name string) docsProblem {
	r := d.api.Components.Responses[name]
	return docsProblem{r.Content[problemType].Example.(*Problem), sortedKeys(r.Headers)}
}

// fields lists the fields of an object, in the order of its Go type.
func (d docsBuilder) fields(s *huma.Schema) []docsField {
	var order []string
	if s.Ref != "" {
		order = jsonFields(d.api.Components.Schemas.TypeFromRef(s.Ref))
		s = d.api.Components.Schemas.SchemaFromRef(s.Ref)
	}
	if len(order) == 0 {
		order = sortedKeys(s.Properties)
	}
	var out []docsField
	for _, name := range order {
		if p := s.Properties[name]; p != nil {
			f := d.field(name, p)
			f.Mark = mark(s.AdditionalProperties == false, slices.Contains(s.Required, name)) // only requests are closed
			out = append(out, f)
		}
	}
	return out
}

func (d docsBuilder) field(name string, s *huma.Schema) docsField {
	f := docsField{Name: name, Type: d.typeOf(s), About: s.Description}
	limit := func(format string, args ...any) { f.Limits = append(f.Limits, fmt.Sprintf(format, args...)) }
	values := s
	if s.Items != nil {
		values = s.Items
	}
	if len(values.Enum) > 0 {
		var words []string
		for _, v := range values.Enum {
			words = append(words, fmt.Sprintf("`%v`", v))
		}
		limit("one of %s", strings.Join(words, ", "))
	}
	between(limit, "length", s.MinLength, s.MaxLength)
	between(limit, "items", s.MinItems, s.MaxItems)
	between(limit, "value", s.Minimum, s.Maximum)
	if s.Default != nil {
		limit("default `%v`", s.Default)
	}
	return f
}

func between[T int | float64](limit func(string, ...any), what string, least, most *T) {
	switch {
	case least != nil && most != nil:
		limit("%s %v to %v", what, *least, *most)
	case least != nil:
		limit("%s at least %v", what, *least)
	case most != nil:
		limit("%s at most %v", what, *most)
	}
}

func (d docsBuilder) typeOf(s *huma.Schema) docsType {
	var t docsType
	switch {
	case s.Ref != "":
		t.Link = strings.TrimPrefix(s.Ref, schemaRef)
	case len(s.AnyOf) > 0:
		t = d.typeOf(s.AnyOf[0])
		if s.AnyOf[len(s.AnyOf)-1].Type == "null" {
			t.After += " or null"
		}
	case isIDSchema(s):
		t.Before = "id"
	case s.Format == "date-time":
		t.Before = "time"
	case s.Items != nil:
		t = d.typeOf(s.Items)
		t.Before = "array of " + t.Before
	case s.Type == huma.TypeInteger:
		t.Before = "integer"
	default:
		t.Before = cmp.Or(s.Type, "any")
	}
	if s.Nullable {
		t.After += " or null"
	}
	return t
}

// curl is a request as it can be pasted into a terminal.
func curl(op *huma.Operation, body json.RawMessage) string {
	path, query := op.Path, url.Values{}
	for _, p := range op.Parameters {
		text := parameterExample(p)
		switch {
		case p.In == "path":
			if p.Name == "id" {
				text = exampleOf(pathID(op.Path))
			}
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(text))
		case p.In == "query" && p.Required:
			query.Set(p.Name, text)
		}
	}
	address := "http://localhost:8080" + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	lines := []string{"curl -s"}
	if op.Method != http.MethodGet {
		lines[0] += " -X " + op.Method
	}
	lines[0] += " " + shell(address)
	if op.Security != nil {
		lines = append(lines, `-H "Authorization: Bearer $TOKEN"`)
	}
	if body != nil {
		lines = append(lines, "-H 'Content-Type: application/json'", "-d "+shell(wrapped(body)))
	}
	return strings.Join(lines, " \\\n  ")
}

// parameterExample is how a parameter could look in a URL, before it is escaped.
func parameterExample(p *huma.Param) string {
	if p.Example != nil || p.Schema == nil {
		return fmt.Sprint(p.Example)
	}
	example := exampleBuilder{}.of(p.Schema, p.Name)
	var text string
	if json.Unmarshal(example, &text) == nil {
		return text
	}
	var list []any
	if json.Unmarshal(example, &list) == nil && len(list) > 0 {
		return fmt.Sprint(list[0])
	}
	return string(example)
}

// wrapped is JSON in one line if that is short.
func wrapped(text json.RawMessage) string {
	if len(text) <= 52 {
		return string(text)
	}
	return indented(text)
}

func indented(text json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		panic("rest: an example: " + err.Error()) // a bug, found by the first test
	}
	return b.String()
}

// pathID names whose id {id} is in a path, such as conversationId in /api/conversations/{id}.
func pathID(path string) string {
	before, _, _ := strings.Cut(path, "/{id}")
	return strings.TrimSuffix(before[strings.LastIndexByte(before, '/')+1:], "s") + "Id"
}

var plainWord = regexp.MustCompile(`^[\w:/.@%+-]+$`)

// shell quotes a word for a shell, if it must be.
func shell(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// mqttCommand is how to try an operation on a channel with Mosquitto's clients.
func (p *docsPage) mqttCommand(o asyncapi.Operation, c asyncapi.Channel) string {
	topic := c.Address
	for _, param := range c.Parameters {
		topic = strings.ReplaceAll(topic, "{"+param.Name+"}", param.Value.Examples[0])
	}
	login := fmt.Sprintf(` -V 5 -u alice -P "$TOKEN" -q %d \
  -t `, o.Bindings.MQTT.QoS)
	if o.Action == asyncapi.Publish {
		var payload json.RawMessage
		for _, ref := range slices.Backward(o.Messages) { // the first that is JSON
			if m := p.MQTT.Components.Messages.Get(ref.Name()); m.ContentType == jsonType {
				payload = m.Examples[0].Payload
			}
		}
		return "mosquitto_pub" + login + shell(topic) + " \\\n  -m " + shell(wrapped(payload))
	}
	filter := o.Filters[0]
	if i := slices.IndexFunc(o.Filters, func(f string) bool { return strings.Contains(f, "/+/") }); i >= 0 {
		filter = o.Filters[i]
	}
	if strings.Contains(filter, "{") {
		filter = topic
	}
	return "mosquitto_sub" + login + shell(filter)
}

func mqttFields(s asyncapi.Schema) (out []docsField) {
	for _, p := range s.Properties {
		f := docsField{
			Name: p.Name, Mark: mark(s.AdditionalProperties != nil, slices.Contains(s.Required, p.Name)), // only what is sent is closed
			About: p.Value.Description, Type: docsType{Before: mqttType(p.Value)},
		}
		if p.Value.Const != "" {
			f.Limits = append(f.Limits, "always `"+p.Value.Const+"`")
		}
		if len(p.Value.Enum) > 0 {
			f.Limits = append(f.Limits, "one of `"+strings.Join(p.Value.Enum, "`, `")+"`")
		}
		if p.Value.MaxItems > 0 {
			f.Limits = append(f.Limits, "items at most "+strconv.Itoa(p.Value.MaxItems))
		}
		out = append(out, f)
	}
	return out
}

func mqttType(s asyncapi.Schema) string {
	types, _ := s.Type.([]any) // or null
	text := fmt.Sprint(append(types, s.Type)[0])
	switch {
	case s.Format == "date-time":
		text = "time"
	case s.Pattern != "":
		text = "id"
	case s.Items != nil:
		text = "array of " + mqttType(*s.Items)
	}
	if types != nil {
		text += " or null"
	}
	return text
}

var (
	codeMark   = regexp.MustCompile("`([^`]+)`")
	strongMark = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	emMark     = regexp.MustCompile(`\*([^*\s][^*]*)\*`)
)

// prose turns the little Markdown that descriptions use into HTML: code, strong,
// emphasis and paragraphs. Everything else is text.
func prose(s string) template.HTML {
	var out []string
	for _, p := range strings.Split(strings.TrimSpace(s), "\n\n") {
		p = template.HTMLEscapeString(p)
		p = codeMark.ReplaceAllString(p, "<code>$1</code>")
		p = strongMark.ReplaceAllString(p, "<strong>$1</strong>")
		out = append(out, emMark.ReplaceAllString(p, "<em>$1</em>"))
	}
	if len(out) == 1 {
		return template.HTML(out[0]) // escaped above
	}
	return template.HTML("<p>" + strings.Join(out, "</p>\n<p>") + "</p>") // escaped above
}

var jsonToken = regexp.MustCompile(`("(?:[^"\\]|\\.)*")(\s*:)?|\b(true|false|null)\b|-?\d+(?:\.\d+)?`)

// highlight is JSON with its parts marked for the style sheet.
func highlight(text json.RawMessage) template.HTML {
	source := indented(text)
	var b strings.Builder
	last := 0
	for _, m := range jsonToken.FindAllStringSubmatchIndex(source, -1) {
		b.WriteString(template.HTMLEscapeString(source[last:m[0]]))
		class := "n"
		switch {
		case m[2] >= 0 && m[4] >= 0:
			class = "k"
		case m[2] >= 0:
			class = "s"
		}
		end := m[1]
		if class == "k" {
			end = m[3]
		}
		b.WriteString(`<span class="` + class + `">` + template.HTMLEscapeString(source[m[0]:end]) + `</span>`)
		last = end
	}
	b.WriteString(template.HTMLEscapeString(source[last:]))
	return template.HTML(b.String()) // escaped above
}
