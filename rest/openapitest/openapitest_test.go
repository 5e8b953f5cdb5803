package openapitest_test

import (
	"strings"
	"testing"

	"github.com/parleymq/parley/rest/openapitest"
)

const document = `{"paths":{
	"/things":{"post":{"operationId":"makeThing",
		"requestBody":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/NewThing"}}}},
		"responses":{"201":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/Thing"}}}},"409":{"$ref":"#/components/responses/conflict"}}}},
	"/things/{id}":{
		"get":{"operationId":"getThing","parameters":[{"name":"limit","in":"query","schema":{"type":"integer","maximum":9}}],
			"responses":{"200":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/Thing"}}}}}},
		"delete":{"operationId":"deleteThing","responses":{"204":{}}}},
	"/things/all":{"get":{"operationId":"listThings","responses":{"200":{"content":{"application/json":{"schema":{"type":"array"}}}}}}}},
	"components":{
		"responses":{"conflict":{"content":{"application/problem+json":{"schema":{"$ref":"#/components/schemas/Problem"}}}}},
		"schemas":{"NewThing":{"type":"object","additionalProperties":false,"properties":{"name":{"type":"string"}}},
			"Thing":{"type":"object","required":["id"],"properties":{"id":{"type":"string"}}},
			"Problem":{"type":"object","required":["code"]}}}}`

// The checker finds what is wrong: a test that cannot fail shows nothing.
func TestCheck(t *testing.T) {
	t.Parallel()
	c, err := openapitest.New([]byte(document))
	if err != nil {
		t.Fatal(err)
	}
	const ok, problem = "application/json; charset=utf-8", "application/problem+json"
	for _, tt := range []struct {
		method, target, request string
		status                  int
		contentType, answer     string
		says                    string // "": right
	}{
		{"POST", "/things", `{"name":"x"}`, 201, ok, `{"id":"x","new":1}`, ""},
		{"POST", "/things", `{"name":"x"}`, 201, ok, `{}`, "id"},
		{"POST", "/things", `{"name":"x"}`, 201, problem, `{"id":"x"}`, "content type"},
		{"POST", "/things", `{"name":"x"}`, 200, ok, `{"id":"x"}`, "no such answer"},
		{"POST", "/things", `{"named":"x"}`, 201, ok, `{"id":"x"}`, "named"},
		{"POST", "/things", `{"named":"x"}`, 409, problem, `{"code":"conflict"}`, ""},
		{"POST", "/things", `{}`, 409, problem, `{"cod":"conflict"}`, "code"},
		{"POST", "/things", `{}`, 409, problem, `oops`, "invalid character"},
		{"GET", "/things/a?limit=9", "", 200, ok, `{"id":"a"}`, ""},
		{"GET", "/things/a?limit=10", "", 200, ok, `{"id":"a"}`, "limit"},
		{"GET", "/things/a?page=1", "", 200, ok, `{"id":"a"}`, "page"},
		{"GET", "/things/all", "", 200, ok, `[]`, ""},
		{"GET", "/things/all", "", 200, ok, `{"id":"a"}`, "array"},
		{"DELETE", "/things/a", "", 204, "", "", ""},
		{"DELETE", "/things/a", "", 204, ok, "{}", "should have none"},
		{"DELETE", "/things/a", "{}", 204, "", "", "has none"},
		{"PUT", "/things/a", "", 405, problem, `{"code":"method_not_allowed"}`, ""},
		{"PUT", "/things/a", "", 405, problem, `{}`, "code"},
		{"GET", "/nothing", "", 404, problem, `{}`, "code"},
		{"GET", "/nothing", "", 200, "text/html", `hello`, ""},
	} {
		err := c.Check(tt.method, "http://localhost"+tt.target, []byte(tt.request), tt.status, tt.contentType, []byte(tt.answer))
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %s %s = %d %s %s: %v, want something about %q", tt.method, tt.target, tt.request, tt.status, tt.contentType, tt.answer, err, tt.says)
		}
	}
}
