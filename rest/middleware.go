package rest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humachi"
	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/parleymq/parley/chat"
)

// observe counts, times and (at debug level) logs each request, and turns a panic
// into a problem.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		begin := time.Now() // a duration, not a date: not the service's clock
		s.metrics.inFlight.Inc()
		defer func() {
			s.metrics.inFlight.Dec()
			route := chi.RouteContext(r.Context()).RoutePattern()
			if route == "" || strings.HasSuffix(route, "*") {
				route = "none"
			}
			method := r.Method
			if !slices.Contains(methods, method) {
				method = "other"
			}
			status := ww.Status()
			if status == 0 {
				status = http.StatusOK
			}
			took := time.Since(begin)
			s.metrics.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
			s.metrics.seconds.WithLabelValues(route, method).Observe(took.Seconds())
			if s.logger.Enabled(r.Context(), slog.LevelDebug) { // its arguments cost five allocations
				s.logger.DebugContext(r.Context(), "request", "method", method, "route", route, "status", status, "elapsed_ms", took.Milliseconds())
			}
		}()
		defer func() {
			if v := recover(); v != nil {
				s.recovered(ww, r, v)
			}
		}()
		next.ServeHTTP(ww, r)
	})
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

func (s *server) recovered(w middleware.WrapResponseWriter, r *http.Request, v any) {
	var gone *net.OpError
	err, isErr := v.(error)
	switch {
	case isErr && errors.Is(err, http.ErrAbortHandler):
		panic(v) // net/http's own way to cut a connection
	case isErr && errors.As(err, &gone):
		return // huma panics when the client has gone while it writes
	}
	s.metrics.panics.Inc()
	s.logger.ErrorContext(r.Context(), "handler panicked", "method", r.Method, "err", fmt.Sprint(v), "stack", string(debug.Stack()))
	if w.Status() == 0 {
		problemOf(chat.Internal).write(w)
	}
}

// guard sets the headers that every answer has.
func (s *server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set(epochHeader, string(s.epoch))
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		next.ServeHTTP(w, r)
	})
}

// strict refuses what would be taken for something else in silence: a query of which net/url
// drops the part that it cannot parse, a header given twice, of which only one would count,
// and a body in a content coding, which nobody decodes.
func strict(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := ambiguous(r); p != nil {
			p.write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func ambiguous(r *http.Request) *Problem {
	if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
		return fieldProblem(chat.Invalid, "query", "must be name=value, joined by &, percent-encoded")
	}
	for _, name := range []string{"Authorization", "Content-Type"} {
		if len(r.Header.Values(name)) > 1 {
			return fieldProblem(chat.Invalid, name, "is given twice")
		}
	}
	if coding := strings.Join(r.Header.Values("Content-Encoding"), ","); coding != "" && !strings.EqualFold(coding, "identity") && r.ContentLength != 0 {
		p := newProblem(codeMediaType, "send the body without a Content-Encoding")
		p.header.Set("Accept-Encoding", "identity") // RFC 9110, 15.5.16
		return p
	}
	return nil
}

// once refuses a parameter that is given twice, of which only the first would count, unless it
// is a list. Unknown ones are refused by huma.
func (s *server) once(ctx huma.Context, next func(huma.Context)) {
	u := ctx.URL()
	given := u.Query()
	for _, p := range ctx.Operation().Parameters {
		if list := p.Explode != nil && *p.Explode; p.In == "query" && !list && len(given[p.Name]) > 1 {
			s.refuse(ctx, fieldProblem(chat.Invalid, p.Name, "is given twice"))
			return
		}
	}
	next(ctx)
}

// cors lets pages of the allowed origins call the API (Fetch, 3.2). There are no
// cookies, so any origin is safe; credentials mode is never allowed. Any header may be sent:
// tracing adds some that no list has.
func (s *server) cors(next http.Handler) http.Handler {
	if s.allowOrigin == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin, h := r.Header.Get("Origin"), w.Header()
		h.Add("Vary", "Origin")
		if origin == "" || !s.allowOrigin(r) {
			next.ServeHTTP(w, r)
			return
		}
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Expose-Headers", "Location, Parley-Epoch, Retry-After, WWW-Authenticate")
		if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
			next.ServeHTTP(w, r)
			return
		}
		h.Add("Vary", "Access-Control-Request-Headers")
		h.Set("Access-Control-Allow-Methods", "GET, POST, PUT, PATCH, DELETE")
		asked := strings.Join(r.Header.Values("Access-Control-Request-Headers"), ", ")
		h.Set("Access-Control-Allow-Headers", cmp.Or(asked, "Authorization, Content-Type"))
		h.Set("Access-Control-Max-Age", "600")
		w.WriteHeader(http.StatusNoContent)
	})
}

type principalKey struct{}

// principal returns who the request acts as; only behind authenticate.
func principal(ctx context.Context) chat.Principal {
	return ctx.Value(principalKey{}).(chat.Principal)
}

// authenticate admits requests with a valid access token (RFC 6750, 2.1).
func (s *server) authenticate(ctx huma.Context, next func(huma.Context)) {
	scheme, token, _ := strings.Cut(ctx.Header("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		s.refuse(ctx, problemOf(&chat.Error{Code: chat.Unauthenticated, Msg: "send an access token: Authorization: Bearer …"}))
		return
	}
	p, err := s.identity.VerifyToken(ctx.Context(), strings.TrimSpace(token))
	if err != nil {
		problem := s.explain(ctx.Context(), ctx.Operation(), err)
		if problem.Code == chat.Unauthenticated {
			problem.header.Set("WWW-Authenticate", `Bearer realm="parley", error="invalid_token"`)
		}
		s.refuse(ctx, problem)
		return
	}
	next(huma.WithValue(ctx, principalKey{}, p))
}

type callerKey struct{}

// caller is who is limited.
type caller struct {
	addr  netip.Addr
	route string
}

// byAddress lets limited know who calls.
func byAddress(ctx huma.Context, next func(huma.Context)) {
	r, _ := humachi.Unwrap(ctx)
	next(huma.WithValue(ctx, callerKey{}, caller{remoteAddr(r), ctx.Operation().Path}))
}

// limited does something if the caller's address is within the limit. counts says by the
// result whether it counts against it. Only behind byAddress.
func limited[T any](ctx context.Context, s *server, l chat.Limiter, counts func(error) bool, do func() (T, error)) (result T, err error) {
	c := ctx.Value(callerKey{}).(caller)
	decide, err := l.Reserve(ctx, c.addr)
	if err != nil {
		s.metrics.limited.WithLabelValues(c.route).Inc()
		return result, err
	}
	defer func() { decide(counts(err)) }()
	return do()
}

func (s *server) refuse(ctx huma.Context, p *Problem) {
	_, w := humachi.Unwrap(ctx)
	p.write(w)
}

// explain turns a handler's error into a problem, and logs what is the server's fault.
func (s *server) explain(ctx context.Context, op *huma.Operation, err error) *Problem {
	p := problemOf(err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // nobody is waiting for the answer
	case p.Status == http.StatusInternalServerError:
		s.logger.ErrorContext(ctx, "request failed", "operation", op.OperationID, "code", p.Code, "err", err)
	case p.Code == chat.Unavailable:
		s.logger.WarnContext(ctx, "request refused", "operation", op.OperationID, "code", p.Code, "err", err)
	}
	return p
}

// remoteAddr is the address of the connection's other end.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}
