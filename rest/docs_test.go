package rest_test

import (
	"html"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/parleymq/parley/asyncapi"
	"github.com/parleymq/parley/rest"
	"github.com/parleymq/parley/rest/openapitest"
)

var (
	idAttribute   = regexp.MustCompile(`\sid="([^"]*)"`)
	linkAttribute = regexp.MustCompile(`\s(?:href|src)="([^"]*)"`)
)

// The page has every operation, topic, problem and reason code; its links lead somewhere,
// and none of them elsewhere.
func TestDocsPage(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(o *rest.Options) { o.Version = `1.2.3-<b>&` })
	r := s.want(200, "GET", "/docs", "", nil)
	page := string(r.raw)
	ids := map[string]bool{}
	for _, m := range idAttribute.FindAllStringSubmatch(page, -1) {
		if ids[m[1]] {
			t.Errorf("two elements have the id %q", m[1])
		}
		ids[m[1]] = true
	}
	document, err := openapitest.New(s.want(200, "GET", "/openapi.json", "", nil).raw)
	if err != nil {
		t.Fatal(err)
	}
	document.Each(func(method, path string, op openapitest.Operation) {
		if !ids[op.OperationID] || !strings.Contains(page, "<code>"+html.EscapeString(path)+"</code>") {
			t.Errorf("%s %s (%s) is not on the page", method, path, op.OperationID)
		}
	})
	mqtt := asyncapi.Read()
	for _, o := range mqtt.Operations {
		if !ids[o.Name] || !ids["topic-"+o.Value.Channel.Name()] {
			t.Errorf("%s is not on the page", o.Name)
		}
	}
	for _, code := range mqtt.Operations.Get("receiveCommand").ReasonCodes {
		if code.Problem != "" && !ids["problem-"+string(code.Problem)] || !strings.Contains(page, html.EscapeString(code.Why)) {
			t.Errorf("the reason code %+v is not on the page", code)
		}
	}
	for _, m := range linkAttribute.FindAllStringSubmatch(page, -1) {
		link := html.UnescapeString(m[1])
		switch anchor, inside := strings.CutPrefix(link, "#"); {
		case inside && !ids[anchor]:
			t.Errorf("the link %q leads nowhere", link)
		case inside, strings.HasPrefix(link, "data:image/svg+xml,"):
		case !strings.HasPrefix(link, "/") || strings.HasPrefix(link, "//"):
			t.Errorf("the page has something of elsewhere: %q", link)
		default:
			s.want(200, "GET", link, "", nil)
		}
	}
	for _, bad := range []string{"<script>", " style=", " onclick=", "ZgotmplZ", "<b>&", "<no value>"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page contains %q", bad)
		}
	}
	if policy := r.header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'self'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("Content-Security-Policy: %s", policy)
	}
	for path, contentType := range map[string]string{"/docs": "text/html", "/docs/style.css": "text/css", "/docs/script.js": "text/javascript"} {
		r := s.want(200, "GET", path, "", nil)
		if !strings.HasPrefix(r.header.Get("Content-Type"), contentType) || r.header.Get("Cache-Control") != "public, max-age=300" {
			t.Errorf("%s: %v", path, r.header)
		}
		if strings.Contains(string(r.raw), "@import") || strings.Contains(string(r.raw), "url(") {
			t.Errorf("%s loads something", path)
		}
	}
	for _, path := range []string{"/docs/", "/docs/page.html", "/docs/nothing", "/docs/../docs.go"} {
		if r := s.do(http.MethodGet, path, "", nil); r.status != http.StatusNotFound {
			t.Errorf("GET %s = %d", path, r.status)
		}
	}
}
