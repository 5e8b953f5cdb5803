package redis

import (
	"cmp"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
)

// Options configures a Link.
type Options struct {
	// URL says where Redis is; required. It may hold a password and is never logged. The forms:
	//
	//	redis://[user:password@]host[:port][/db]    one server, or one member of a Cluster
	//	redis://host1,host2,host3                   a Cluster, by some of its members
	//	redis+cluster://host                        a Cluster
	//	redis+sentinel://host1,host2/master[/db]    the master of that name, by its Sentinels
	//	unix:///path[?db=1]                         one server, by its socket
	//
	// rediss (rediss://, rediss+cluster://, rediss+sentinel://) is the same over TLS. Ports
	// are 6379, and 26379 of a Sentinel, when left out. Passwords are percent-encoded.
	// Parameters: db; tls_ca, tls_cert and tls_key (PEM files), tls_server_name,
	// tls_skip_verify=true; sentinel_user and sentinel_password, for Sentinels that need them.
	URL string
	// Installation is the id of the database that the nodes share, the same at each of them:
	// required, 1 to 64 of a–z, A–Z, 0–9, "-" and "_". Links of different installations have
	// nothing in common, even in one Redis.
	Installation string
	// Node is this process; required. cluster.Node has the limits. No two processes may have
	// the same id.
	Node cluster.Node
	// MaxQueued is how many bytes may wait for one peer, or one larger frame; others are
	// dropped and counted. 0: 4 MiB.
	MaxQueued int
	// HeartbeatInterval is the pause between heartbeats, and how long one may take; 0: 2 s.
	// At least 10 ms.
	HeartbeatInterval time.Duration
	// Logger logs that Redis becomes unavailable, and available again; nil: nothing is logged.
	Logger *slog.Logger
	// Registerer registers the metrics; nil: they are discarded.
	Registerer prometheus.Registerer
}

// check fills in defaults and returns what is wrong, as Invalid.
func (o *Options) check() error {
	wrong := func(field, msg string) error {
		return &chat.Error{Code: chat.Invalid, Op: "redis.New", Field: field, Msg: msg}
	}
	o.MaxQueued = cmp.Or(o.MaxQueued, maxQueued)
	o.HeartbeatInterval = cmp.Or(o.HeartbeatInterval, 2*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	switch name := o.Node.Name; {
	case !validID(o.Installation):
		return wrong("Installation", "must be 1 to 64 of a-z, A-Z, 0-9, - and _")
	case !validID(o.Node.ID):
		return wrong("Node.ID", "must be 1 to 64 of a-z, A-Z, 0-9, - and _")
	case len(name) == 0 || len(name) > 128 || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return wrong("Node.Name", "must be 1 to 128 bytes of UTF-8 without control characters")
	case o.HeartbeatInterval < 10*time.Millisecond:
		return wrong("HeartbeatInterval", "must be at least 10 ms")
	}
	return nil
}

const idLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// validID holds ids that come from Redis to the same limits as those that go there: others
// may write to it, by mistake or by a later version.
func validID(id string) bool { return id != "" && len(id) <= 64 && strings.Trim(id, idLetters) == "" }
