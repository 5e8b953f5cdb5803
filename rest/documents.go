package rest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/parleymq/parley/asyncapi"
)

const (
	openAPIType  = "application/vnd.oai.openapi+json;version=3.1"
	asyncAPIType = "application/vnd.aai.asyncapi+json;version=3.0.0"
)

// documents serves what describes the two doors: /openapi.json, /asyncapi.json, and a
// page for people at /docs that is made from both. Each is made when it is first asked for.
func (s *server) documents(router chi.Router, version string) {
	mqtt := sync.OnceValue(func() *asyncapi.Document { return asyncapi.New(version) })
	examples := sync.OnceFunc(func() { addExamples(s.api.OpenAPI()) })
	router.Get("/openapi.json", serveDocument(openAPIType, sync.OnceValues(func() ([]byte, error) {
		examples()
		return json.Marshal(s.api.OpenAPI())
	})))
	router.Get("/asyncapi.json", serveDocument(asyncAPIType, sync.OnceValues(func() ([]byte, error) { return mqtt().JSON() })))
	s.docs(router, func() (*huma.OpenAPI, *asyncapi.Document) {
		examples()
		return s.api.OpenAPI(), mqtt()
	})
}

func serveDocument(contentType string, document func() ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text, err := document()
		if err != nil {
			panic("rest: a document: " + err.Error()) // a bug, found by the first test
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", publicCacheValue)
		_, _ = w.Write(text)
	}
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
