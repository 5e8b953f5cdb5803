package rest

import (
	"context"
	"errors"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

// Health is the answer of /healthz and /readyz.
type Health struct {
	Status string `json:"status" example:"ok"`
}

// JWKS is a set of public keys (RFC 7517, 5).
type JWKS struct {
	Keys []identity.JWK `json:"keys" nullable:"false"`
}

func (JWKS) example() any {
	return JWKS{Keys: []identity.JWK{{
		KeyType: "OKP", Curve: "Ed25519", X: "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", KID: "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", Algorithm: "EdDSA", Use: "sig",
	}}}
}

type jwksOutput struct {
	CacheControl string `header:"Cache-Control"`
	Body         JWKS
}

func (s *server) operations(router chi.Router) {
	const tag = "operations"
	register(s, op(tag, "GET /healthz", "health", "Check that the process is alive", ""),
		func(context.Context, *struct{}) (*body[Health], error) { return &body[Health]{Health{"ok"}}, nil })
	register(s, op(tag, "GET /readyz", "ready", "Check that the server is ready for traffic", ""), s.readiness)
	register(s, op(tag, "GET /.well-known/jwks.json", "jwks", "The public keys of access tokens", ""), s.jwks)
	router.Get("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		newProblem(chat.NotFound, "metrics are at PARLEY_ADMIN_ADDR, if that is set").write(w)
	})
}

func (s *server) readiness(ctx context.Context, _ *struct{}) (*body[Health], error) {
	ctx, cancel := chat.WithDeadline(ctx, readyTime, "rest.ready")
	defer cancel()
	if err := s.ready(ctx); err != nil {
		msg := "not ready"
		if known := (*chat.Error)(nil); errors.As(err, &known) && known.Msg != "" {
			msg += ": " + known.Public()
		}
		return nil, &chat.Error{Code: chat.Unavailable, Op: "rest.ready", Msg: msg, Err: err}
	}
	return &body[Health]{Health{"ok"}}, nil
}

func (s *server) jwks(ctx context.Context, _ *struct{}) (*jwksOutput, error) {
	keys, err := s.identity.JWKS(ctx)
	if err != nil {
		return nil, err
	}
	return &jwksOutput{CacheControl: publicCacheValue, Body: JWKS{Keys: keys}}, nil
}
