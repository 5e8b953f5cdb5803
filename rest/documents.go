package rest

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-chi/chi/v5"

	"github.com/parleymq/parley/asyncapi"
)

const (
	openAPIType  = "application/vnd.oai.openapi+json;version=3.1"
	asyncAPIType = "application/vnd.aai.asyncapi+json;version=3.0.0"
)

// documents serves what describes the API: /openapi.json (REST), /asyncapi.json (MQTT), and
// both of them as a page for people at /docs. Each is made when it is first asked for.
func (s *server) documents(router chi.Router, version string) {
	s.openAPI = sync.OnceValue(func() *huma.OpenAPI {
		addExamples(s.api.OpenAPI())
		return s.api.OpenAPI()
	})
	router.Get("/openapi.json", serveDocument(openAPIType, sync.OnceValue(func() []byte {
		text, err := json.Marshal(s.openAPI())
		if err != nil {
			panic("rest: the OpenAPI document: " + err.Error()) // a bug, found by the first test
		}
		return text
	})))
	router.Get("/asyncapi.json", serveDocument(asyncAPIType, sync.OnceValue(func() []byte { return asyncapi.JSON(version) })))
	s.docs(router)
}

func serveDocument(contentType string, document func() []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", publicCacheValue)
		_, _ = w.Write(document())
	}
}
