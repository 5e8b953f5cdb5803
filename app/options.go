package app

import (
	"cmp"
	"log/slog"
	"net/netip"
	"time"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store"
)

// Options is everything that can be set of a Parley process. The zero value
// serves on the default ports with a private PostgreSQL in DataDir, which alone
// is required then.
type Options struct {
	DatabaseURL string // a PostgreSQL, as a URL or libpq's keywords and values; empty: a private one in DataDir
	// RedisURL joins this process and others on the same database, each with a Node of
	// its own, to one system: redis://, rediss://, with several hosts a Cluster, or
	// redis+sentinel://; see redis.Options. Empty: it is alone.
	RedisURL string

	DataDir     string // where the private PostgreSQL keeps its data
	PostgresBin string // folder of the server binaries for the private one; empty: looked up

	Node      string // name of this node; "parley"
	MQTTAddr  string // TCP address for MQTT; ":1883". NoMQTT: only Listeners
	HTTPAddr  string // TCP address for REST and MQTT over WebSocket (/mqtt); ":8080"
	AdminAddr string // TCP address for /metrics and /debug/pprof; empty: neither is served

	// ProxyFrom are the addresses of load balancers that are believed: they begin each
	// connection to MQTTAddr with a PROXY header, and may do so at HTTPAddr.
	ProxyFrom []netip.Prefix
	// ForwardedFrom are those of reverse proxies whose X-Forwarded-For is believed, beside ProxyFrom.
	ForwardedFrom []netip.Prefix
	Listeners     []Listener // for MQTT, beside MQTTAddr: TLS, unix sockets, and those with rules of their own

	AllowedOrigins []string // of web pages that may call REST and /mqtt, beside the server's own; see ParseOrigin
	Version        string   // shown in /openapi.json and $SYS; "dev"

	Identity identity.Options // tokens and passwords; its Store, Clock, Logger and Registerer are set here

	Limits           broker.Limits // of connections
	MaxUserSessions  int           // connections of one user at once; chat.MaxUserSessions
	MaxSessionExpiry time.Duration // how long a session is kept at most after its connection; 90 days
	PresenceGrace    time.Duration // for a device to come back before its user is shown as offline; 10 s
	Writer           store.WriterOptions
	// TopicAccess decides about device topics; nil: topics.Own, so dev/ for everybody and
	// nothing else. With topics.Open all of them are open to all, dev/ is part of the one
	// space, and a client without a password connects without an account: for test benches.
	TopicAccess   chat.TopicAccess
	OneTopicSpace bool          // dev/ is part of the one space, whatever TopicAccess is: no user's own
	SignupRate    identity.Rate // POST /api/users, for each address; identity.DefaultSignupRate
	LoginRate     identity.Rate // POST /api/sessions and CONNECT with a password together, for each address; identity.DefaultLoginRate

	// Drain is over how long Stop sends clients away, one after the other, so that they do
	// not all connect elsewhere at once; 0: all at once.
	Drain time.Duration
	// ServerReference names other servers to clients that are sent away, as Server
	// Reference of MQTT 5.0 does (3.2.2.3.16): host:port, several with spaces between; empty: none.
	ServerReference string

	StartTimeout time.Duration // for the database to be there and migrated; 1 minute
	StopTimeout  time.Duration // for each step of Stop; 5 s
	Logger       *slog.Logger  // nil: nothing is logged
}

func (o *Options) setDefaults() {
	o.Node = cmp.Or(o.Node, "parley")
	o.MQTTAddr = cmp.Or(o.MQTTAddr, ":1883")
	o.HTTPAddr = cmp.Or(o.HTTPAddr, ":8080")
	o.Version = cmp.Or(o.Version, "dev")
	o.StartTimeout = cmp.Or(o.StartTimeout, time.Minute)
	o.StopTimeout = cmp.Or(o.StopTimeout, 5*time.Second)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
}
