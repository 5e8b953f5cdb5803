package rest

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
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

// Options says what the handler is made of. Chat, Identity and Presence are needed; the zero
// value of every other field stands for its default.
type Options struct {
	Chat     *chat.Service
	Identity *identity.Service
	Presence PresenceLister

	Logger     *slog.Logger          // none
	Clock      chat.Clock            // for the rate limits; chat.SystemClock
	Registerer prometheus.Registerer // nil: metrics are not kept
	Version    string                // of the server, for the OpenAPI document; "dev"

	Ready   func(context.Context) error // asked by /readyz, with a deadline of 2 s; nil: always ready
	Metrics http.Handler                // served at /metrics to loopback only; nil: not here (an admin address has it)

	AllowedOrigins []string                       // web pages that may call (CORS), such as "https://app.example.org", or "*"; none
	ClientAddr     func(*http.Request) netip.Addr // whom the rate limits count; default: the connection's other end
	SignupRate     identity.Rate                  // POST /api/users, for each address; 20 at once, one more every 3 s
	Logins         chat.Limiter                   // of POST /api/sessions, shared with MQTT; one of its own, 30 at once and one more every second
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
	chat      *chat.Service
	identity  *identity.Service
	presences PresenceLister
	logger    *slog.Logger
	metrics   *metrics
	origins   []string
	address   func(*http.Request) netip.Addr
	ready     func(context.Context) error
	api       huma.API
	openAPI   func() *huma.OpenAPI // api's document, with examples
}

// New returns the handler of everything under /api, and of /healthz, /readyz,
// /metrics, /openapi.json, /asyncapi.json, /docs and /.well-known/jwks.json; any other path
// is 404. It starts nothing. The package comment says what it expects of the http.Server.
func New(o Options) http.Handler {
	o.setDefaults()
	s := &server{
		chat: o.Chat, identity: o.Identity, presences: o.Presence, logger: o.Logger.With("component", "rest"), metrics: newMetrics(o.Registerer),
		origins: o.AllowedOrigins, address: o.ClientAddr, ready: o.Ready,
	}
	router := chi.NewMux()
	router.Use(s.observe, guard, s.cors, query, middleware.GetHead)
	router.NotFound(func(w http.ResponseWriter, _ *http.Request) {
		newProblem(chat.NotFound, http.StatusNotFound, "there is nothing at this path").write(w)
	})
	router.MethodNotAllowed(methodNotAllowed(router))

	s.api = humachi.New(router, apiConfig(o.Version))
	s.users(identity.NewLimiter(o.SignupRate, identity.DefaultSignupRate, o.Clock))
	s.sessions(o.Logins)
	s.conversations()
	s.groups()
	s.blocks()
	s.messages()
	s.commands()
	s.sync()
	s.search()
	s.reads()
	s.presence()
	s.operations(router, o.Metrics)
	s.documents(router, o.Version)
	return router
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = chat.SystemClock{}
	}
	if o.Version == "" {
		o.Version = "dev"
	}
	if o.Ready == nil {
		o.Ready = func(context.Context) error { return nil }
	}
	if o.ClientAddr == nil {
		o.ClientAddr = remoteAddr
	}
	if o.Logins == nil {
		o.Logins = identity.NewLimiter(identity.Rate{}, identity.DefaultLoginRate, o.Clock)
	}
}

// methodNotAllowed answers 405 with the Allow header (RFC 9110, 15.5.6).
func methodNotAllowed(router *chi.Mux) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p := newProblem(codeMethod, http.StatusMethodNotAllowed, "this path does not support the method")
		for _, m := range methods {
			if router.Match(chi.NewRouteContext(), m, r.URL.Path) {
				p.header.Add("Allow", m)
			}
		}
		p.write(w)
	}
}
