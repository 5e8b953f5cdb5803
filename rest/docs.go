package rest

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
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

// docs serves the page, which is made when it is first asked for.
func (s *server) docs(router chi.Router) {
	page := sync.OnceValue(func() []byte {
		t := template.New("page.html").Funcs(template.FuncMap{
			"prose": prose, "json": highlight, "type": typeOf, "problem": problemIn, "curl": curl, "mqttFields": mqttFields,
			"text": func(payload json.RawMessage) (s string) { _ = json.Unmarshal(payload, &s); return s },
			"hex":  func(code int) string { return fmt.Sprintf("0x%02X", code) },
		})
		var b bytes.Buffer
		if err := template.Must(t.ParseFS(docsFiles, "docs/page.html")).Execute(&b, docsPage{s.openAPI(), asyncapi.Read()}); err != nil {
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

// docsPage is what page.html walks through: both documents. Its methods are for what a
// template cannot do: choose, sort, and follow references.
type docsPage struct {
	API  *huma.OpenAPI
	MQTT *asyncapi.Document
}

// docsField is a field of an object, or a parameter.
type docsField struct {
	Name, In string
	Type     template.HTML
	Mark     string // what a reader would not assume: "required" in a request, "optional" in an answer
	About    string
	Limits   []string
}

func mark(sent, required bool) string {
	switch {
	case sent && required:
		return "required"
	case !sent && !required:
		return "optional"
	}
	return ""
}

// Tagged returns the operations with a tag.
func (p docsPage) Tagged(tag string) []*huma.Operation {
	return slices.DeleteFunc(operations(p.API), func(op *huma.Operation) bool { return !slices.Contains(op.Tags, tag) })
}

// Problems returns the answers to requests that fail, by status.
func (p docsPage) Problems() []*huma.Response {
	return slices.SortedFunc(maps.Values(p.API.Components.Responses), func(a, b *huma.Response) int {
		x, y := problemIn(a), problemIn(b)
		return cmp.Or(cmp.Compare(x.Status, y.Status), cmp.Compare(x.Code, y.Code))
	})
}

func problemIn(r *huma.Response) *Problem { return r.Content[problemType].Example.(*Problem) }

// Response returns the answer of an operation, or the one that it refers to.
func (p docsPage) Response(r *huma.Response) *huma.Response {
	return cmp.Or(p.API.Components.Responses[strings.TrimPrefix(r.Ref, "#/components/responses/")], r)
}

// Parameters returns the parameters of an operation.
func (p docsPage) Parameters(op *huma.Operation) (list []docsField) {
	for _, param := range op.Parameters {
		list = append(list, docsField{
			Name: param.Name, In: param.In, Type: typeOf(param.Schema), Mark: mark(true, param.Required),
			About: cmp.Or(param.Description, param.Schema.Description), Limits: limits(param.Schema),
		})
	}
	return list
}

const schemaRef = "#/components/schemas/"

// Fields lists the fields of the schema of that name, in the order of its Go type.
func (p docsPage) Fields(name string) (list []docsField) {
	ref := schemaRef + strings.TrimPrefix(name, schemaRef)
	s := p.API.Components.Schemas.SchemaFromRef(ref)
	for _, name := range jsonFields(p.API.Components.Schemas.TypeFromRef(ref)) {
		f := s.Properties[name]
		list = append(list, docsField{
			Name: name, Type: typeOf(f), Mark: mark(s.AdditionalProperties == false, slices.Contains(s.Required, name)), // only requests are closed
			About: f.Description, Limits: limits(f),
		})
	}
	return list
}

func limits(s *huma.Schema) (list []string) {
	values := s.Enum
	if s.Items != nil {
		values = s.Items.Enum
	}
	if len(values) > 0 {
		list = append(list, oneOf(values))
	}
	list = append(list, between("length", s.MinLength, s.MaxLength)...)
	list = append(list, between("items", s.MinItems, s.MaxItems)...)
	list = append(list, between("value", s.Minimum, s.Maximum)...)
	if s.Default != nil {
		list = append(list, fmt.Sprintf("default `%v`", s.Default))
	}
	return list
}

func oneOf[T any](values []T) string {
	return "one of " + strings.Join(mapped(values, func(v *T) string { return fmt.Sprintf("`%v`", *v) }), ", ")
}

func between[T int | float64](what string, least, most *T) []string {
	switch {
	case least != nil && most != nil:
		return []string{fmt.Sprintf("%s %v to %v", what, *least, *most)}
	case least != nil:
		return []string{fmt.Sprintf("%s at least %v", what, *least)}
	case most != nil:
		return []string{fmt.Sprintf("%s at most %v", what, *most)}
	}
	return nil
}

// typeOf is a type in words, with a link to the schema that it is, or consists of.
func typeOf(s *huma.Schema) (words template.HTML) {
	switch {
	case s.Ref != "":
		words = template.HTML(fmt.Sprintf(`<a href="#schema-%s">%[1]s</a>`, strings.TrimPrefix(s.Ref, schemaRef))) // the name of a Go type
	case len(s.AnyOf) > 0:
		words = typeOf(s.AnyOf[0])
		if s.AnyOf[len(s.AnyOf)-1].Type == "null" {
			words += " or null"
		}
	case isIDSchema(s):
		words = "id"
	case s.Format == "date-time":
		words = "time"
	case s.Items != nil:
		words = "array of " + typeOf(s.Items)
	default:
		words = template.HTML(cmp.Or(s.Type, "any"))
	}
	if s.Nullable {
		words += " or null"
	}
	return words
}

// curl is a request as it can be pasted into a terminal.
func curl(op *huma.Operation) string {
	path, query := op.Path, url.Values{}
	for _, p := range op.Parameters {
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", url.PathEscape(parameterExample(p, op.Path)))
		case p.In == "query" && p.Required:
			query.Set(p.Name, parameterExample(p, op.Path))
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
	if op.RequestBody != nil {
		body := op.RequestBody.Content[jsonType].Example.(json.RawMessage)
		lines = append(lines, "-H 'Content-Type: application/json'", "-d "+shell(wrapped(body)))
	}
	return strings.Join(lines, " \\\n  ")
}

// parameterExample is how a parameter could look in a URL, before it is escaped.
func parameterExample(p *huma.Param, path string) string {
	field := p.Name
	if field == "id" { // conversationId in /api/conversations/{id}
		before, _, _ := strings.Cut(path, "/{id}")
		field = strings.TrimSuffix(before[strings.LastIndexByte(before, '/')+1:], "s") + "Id"
	}
	var value any
	_ = json.Unmarshal(exampleBuilder{}.of(p.Schema, field), &value) // the builder's JSON
	if list, ok := value.([]any); ok {
		value = list[0]
	}
	return fmt.Sprint(value)
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

var plainWord = regexp.MustCompile(`^[\w:/.@%+-]+$`)

// shell quotes a word for a shell, if it must be.
func shell(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// OperationsOn returns the operations of a channel.
func (p docsPage) OperationsOn(channel string) asyncapi.Ordered[asyncapi.Operation] {
	return slices.DeleteFunc(slices.Clone(p.MQTT.Operations), func(o asyncapi.Member[asyncapi.Operation]) bool { return o.Value.Channel.Name() != channel })
}

// Command is how to try an operation on a channel with Mosquitto's clients.
func (p docsPage) Command(o asyncapi.Operation) string {
	c := p.MQTT.Channels.Get(o.Channel.Name())
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

func mqttFields(s asyncapi.Schema) (list []docsField) {
	for _, p := range s.Properties {
		f := docsField{
			Name: p.Name, Mark: mark(s.AdditionalProperties != nil, slices.Contains(s.Required, p.Name)), // only what is sent is closed
			About: p.Value.Description, Type: template.HTML(mqttType(p.Value)),
		}
		if p.Value.Const != "" {
			f.Limits = append(f.Limits, "always `"+p.Value.Const+"`")
		}
		if len(p.Value.Enum) > 0 {
			f.Limits = append(f.Limits, oneOf(p.Value.Enum))
		}
		if p.Value.MaxItems > 0 {
			f.Limits = append(f.Limits, "items at most "+strconv.Itoa(p.Value.MaxItems))
		}
		list = append(list, f)
	}
	return list
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

// jsonToken is a key or a string, a word or a number of escaped JSON.
var jsonToken = regexp.MustCompile(`&#34;(?:\\.|[^\\])*?&#34;:?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?`)

// highlight is JSON with its parts marked for the style sheet.
func highlight(text json.RawMessage) template.HTML {
	marked := jsonToken.ReplaceAllStringFunc(template.HTMLEscapeString(indented(text)), func(token string) string {
		switch key, isKey := strings.CutSuffix(token, ":"); {
		case isKey:
			return `<span class="k">` + key + `</span>:`
		case token[0] == '&':
			return `<span class="s">` + token + `</span>`
		}
		return `<span class="n">` + token + `</span>`
	})
	return template.HTML(marked) // escaped above
}
