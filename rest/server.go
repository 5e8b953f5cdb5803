package rest

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

// PresenceLister is what this package needs of presence.Engine.
type PresenceLister interface {
	// List returns the presence of those of the users whom the user may see.
	List(ctx context.Context, user chat.ID, of []chat.ID) ([]chat.Presence, error)
}

// Options says what the handler is made of. All of it is needed, unless said otherwise.
type Options struct {
	Chat     *chat.Service
	Identity *identity.Service
	Presence PresenceLister

	Epoch      chat.LogEpoch // of the log, for the header Parley-Epoch
	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: metrics are not kept
	Version    string                // of the server, for the documents

	Ready func(context.Context) error // asked by /readyz, with a deadline of 2 s

	Signups chat.Limiter // of POST /api/users
	Logins  chat.Limiter // of wrong passwords, shared with MQTT

	// AllowOrigin reports whether the page that a request comes from may call (CORS); nil: none.
	// It is asked for requests with an Origin header.
	AllowOrigin func(*http.Request) bool
}

const (
	maxBodyBytes     = 256 << 10
	maxBigBodyBytes  = 512 << 10 // so that an array of 10,000 ids is parsed, and can be refused by name
	requestTime      = 15 * time.Second
	readyTime        = 2 * time.Second
	bearer           = "bearer"
	jsonType         = "application/json"
	publicCacheValue = "public, max-age=300"
)

type server struct {
	chat        *chat.Service
	identity    *identity.Service
	presences   PresenceLister
	epoch       chat.LogEpoch
	logger      *slog.Logger
	metrics     *metrics
	allowOrigin func(*http.Request) bool
	ready       func(context.Context) error
	signups     chat.Limiter
	logins      chat.Limiter
	api         huma.API
	openAPI     func() *huma.OpenAPI // api's document, with examples
}

// New returns the handler of everything under /api, and of /healthz, /readyz,
// /metrics, /openapi.json, /asyncapi.json, /docs and /.well-known/jwks.json; any other path
// is 404. It starts nothing. The package comment says what it expects of the http.Server.
func New(o Options) http.Handler {
	s := &server{
		chat: o.Chat, identity: o.Identity, presences: o.Presence, epoch: o.Epoch, logger: o.Logger.With("component", "rest"), metrics: newMetrics(o.Registerer),
		allowOrigin: o.AllowOrigin, ready: o.Ready, signups: o.Signups, logins: o.Logins,
	}
	router := chi.NewMux()
	router.Use(s.observe, s.guard, s.cors, strict, middleware.GetHead)
	router.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		newProblem(chat.NotFound, "there is nothing at this path").write(w)
	})
	router.MethodNotAllowed(methodNotAllowed(router))

	s.api = humachi.New(router, apiConfig(o.Version))
	s.api.UseMiddleware(s.once)
	s.users()
	s.sessions()
	s.conversations()
	s.groups()
	s.blocks()
	s.messages()
	s.commands()
	s.sync()
	s.search()
	s.reads()
	s.presence()
	s.operations(router)
	s.documents(router, o.Version)
	return router
}

// methodNotAllowed answers 405 with the Allow header (RFC 9110, 15.5.6).
func methodNotAllowed(router *chi.Mux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := newProblem(codeMethod, "this path does not support the method")
		for _, m := range methods {
			if router.Match(chi.NewRouteContext(), m, r.URL.Path) {
				p.header.Add("Allow", m)
			}
		}
		p.write(w)
	}
}
