package rest_test

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/parleymq/parley/asyncapi/asyncapitest"
	"github.com/parleymq/parley/rest"
	"github.com/parleymq/parley/rest/openapitest"
)

// The OpenAPI document is valid by the schema that the OpenAPI Initiative publishes
// (testdata/openapi-3.1.schema.json: spec.openapis.org/oas/3.1/schema/2026-08-03,
// Apache-2.0); each of its own schemas is a JSON Schema of 2020-12.
func TestOpenAPIIsValid(t *testing.T) {
	t.Parallel()
	text := newServer(t).want(200, "GET", "/openapi.json", "", nil).raw
	compiler := jsonschema.NewCompiler()
	read := func(b []byte) any {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	published, err := os.ReadFile("testdata/openapi-3.1.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := compiler.AddResource("openapi-3.1", read(published)); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("openapi-3.1")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(read(text)); err != nil {
		t.Error(err)
	}
	if err := schema.Validate(read(bytes.Replace(text, []byte(`"responses":{`), []byte(`"answers":{`), 1))); err == nil {
		t.Error("a document with a field that there is not is valid")
	}
	c, err := openapitest.New(text)
	if err != nil {
		t.Fatal(err)
	}
	doc := read(text).(map[string]any)
	for name := range doc["components"].(map[string]any)["schemas"].(map[string]any) {
		if err := c.Validate(openapitest.Pointer("components", "schemas", name), []byte("7")); err != nil && !strings.Contains(err.Error(), "got number") {
			t.Errorf("the schema %s: %v", name, err)
		}
	}
}

// Every operation says what it is for, what it may answer, and how a request and a
// successful answer look; and they look as their schemas say.
func TestOpenAPIIsComplete(t *testing.T) {
	t.Parallel()
	text := newServer(t).want(200, "GET", "/openapi.json", "", nil)
	c, err := openapitest.New(text.raw)
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string]bool{}
	for _, tag := range text.at("tags").([]any) {
		tag := tag.(map[string]any)
		tags[tag["name"].(string)] = tag["description"] != nil
	}
	c.Each(func(method, path string, op openapitest.Operation) {
		what := method + " " + path
		at := openapitest.Pointer("paths", path, strings.ToLower(method))
		if op.Summary == "" || op.OperationID == "" || len(op.Tags) != 1 || !tags[op.Tags[0]] {
			t.Errorf("%s: no summary, or no operation id, or not one tag that the document describes: %v", what, op)
		}
		if op.RequestBody != nil {
			checkContent(t, c, what+": the request", at+"/requestBody", op.RequestBody.Content)
		}
		want := []string{"400", "500", "503"}
		if op.Security != nil {
			want = append(want, "401")
		}
		if op.RequestBody != nil {
			want = append(want, "408", "413", "415")
		}
		successes := 0
		for status, r := range op.Responses {
			want = slices.DeleteFunc(want, func(s string) bool { return s == status })
			if status[0] == '2' {
				successes++
				checkContent(t, c, what+": "+status, at+openapitest.Pointer("responses", status), r.Content)
				continue
			}
			full := c.Resolve(r)
			if r.Ref == "" || full.Description == "" || full.Content["application/problem+json"].Example == nil {
				t.Errorf("%s: %s is no problem that the document describes: %+v", what, status, r)
			}
		}
		if successes == 0 || len(want) > 0 {
			t.Errorf("%s: %d successful answers; the statuses %v are missing", what, successes, want)
		}
	})
}

func checkContent(t *testing.T, c *openapitest.Checker, what, at string, content map[string]openapitest.Media) {
	t.Helper()
	for media, m := range content {
		if m.Example == nil {
			t.Errorf("%s has no example", what)
		} else if err := c.Validate(at+openapitest.Pointer("content", media, "schema"), m.Example); err != nil {
			t.Errorf("%s: the example is not what the schema says: %v", what, err)
		} else if bytes.Contains(m.Example, []byte(`"…"`)) {
			t.Errorf("%s: a field has no example (`example:\"…\"` in its tag): %s", what, m.Example)
		}
	}
}

func TestAsyncAPI(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *rest.Options) { o.Version = "1.2.3" })
	r := s.want(200, "GET", "/asyncapi.json", "", nil)
	if r.text("asyncapi") != "3.0.0" || r.text("info.version") != "1.2.3" || r.header.Get("Cache-Control") != "public, max-age=300" {
		t.Errorf("/asyncapi.json: %v %.100s", r.header, r.raw)
	}
	if _, err := asyncapitest.New(r.raw); err != nil {
		t.Error(err)
	}
}
