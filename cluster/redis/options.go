package redis

import (
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
)

// Options are what New needs.
type Options struct {
	// URL says where Redis is; required. ParseURL has the forms. It may hold a password
	// and is never logged.
	URL string
	// Node is this process; required, see cluster.Node for the limits. No two processes
	// may have the same id.
	Node cluster.Node
	// Beat is the pause between heartbeats, and how long one may take; 0: 2 s. At least 10 ms.
	Beat time.Duration
	// Prefix begins the name of every key and channel, so that installations can share a
	// Redis; "": "parley:". At most 64 bytes, without braces, spaces and control characters.
	Prefix string
	// Logger notes when Redis becomes unavailable, and available again; nil: none.
	Logger *slog.Logger
	// Registerer is where metrics go; nil: nowhere.
	Registerer prometheus.Registerer
}

// check fills in defaults and returns what is wrong, as Invalid.
func (o *Options) check() error {
	wrong := func(field, msg string) error {
		return &chat.Error{Code: chat.Invalid, Op: "redis.New", Field: field, Msg: msg}
	}
	if o.Beat == 0 {
		o.Beat = 2 * time.Second
	}
	if o.Prefix == "" {
		o.Prefix = "parley:"
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case !validID(o.Node.ID):
		return wrong("Node.ID", "must be 1 to 64 of a-z, A-Z, 0-9, - and _")
	case !validName(o.Node.Name):
		return wrong("Node.Name", "must be 1 to 128 bytes of UTF-8 without control characters")
	case o.Beat < 10*time.Millisecond:
		return wrong("Beat", "must be at least 10 ms")
	case len(o.Prefix) > 64 || strings.ContainsFunc(o.Prefix, func(r rune) bool {
		return r == '{' || r == '}' || r == utf8.RuneError || unicode.IsSpace(r) || unicode.IsControl(r)
	}):
		return wrong("Prefix", "must be at most 64 bytes of UTF-8 without braces, spaces and control characters")
	}
	return nil
}

// validID and validName hold what comes from Redis to the same limits as what goes
// there: others may write to it, by mistake or by a later version.
func validID(id string) bool {
	if len(id) == 0 || len(id) > 64 {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

func validName(name string) bool {
	return len(name) > 0 && len(name) <= 128 && utf8.ValidString(name) && !strings.ContainsFunc(name, unicode.IsControl)
}
