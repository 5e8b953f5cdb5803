package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/parleymq/parley/chat"
)

// client is a go-redis client that knows whether it talks to a Cluster, and the time of
// Redis.
type client struct {
	redis.UniversalClient
	sharded bool
	ahead   atomic.Int64 // ms from the time since start to the time of Redis; set by heartbeat
}

var start = time.Now()

// setClock says that the time of Redis, in ms since 1970, was ms at an instant.
func (c *client) setClock(ms int64, at time.Time) { c.ahead.Store(ms - at.Sub(start).Milliseconds()) }

// now returns the time of Redis, in ms since 1970.
func (c *client) now() int64 { return c.ahead.Load() + time.Since(start).Milliseconds() }

// publish publishes a message, or adds that to a pipeline. The reply is the number of
// receivers.
func (c *client) publish(ctx context.Context, p redis.Cmdable, channel string, message []byte) *redis.IntCmd {
	if c.sharded {
		return p.SPublish(ctx, channel, message)
	}
	return p.Publish(ctx, channel, message)
}

// subscribe starts a subscription; its first message confirms it.
func (c *client) subscribe(ctx context.Context, channel string) *redis.PubSub {
	if c.sharded {
		return c.SSubscribe(ctx, channel)
	}
	return c.Subscribe(ctx, channel)
}

// exec runs a pipeline. ran is false if no command was run and none holds the error: that
// is how go-redis leaves them when a new connection is refused, and a reply that was never
// read then looks like an empty one.
func exec(ctx context.Context, pipe redis.Pipeliner) (ran bool, err error) {
	cmds, err := pipe.Exec(ctx)
	return err == nil || slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Err() != nil }), err
}

// shut closes what is not used any more; its errors do not matter.
func shut(c io.Closer) { _ = c.Close() }

// quiet silences go-redis, which logs to stderr what its errors say too.
var quiet = sync.OnceFunc(logging.Disable)

// pool is how many connections a client may have, to each server of a Cluster.
const pool = 8

// connect returns a new client. Where the URL does not say whether there is a Cluster, it
// asks the server. timeout limits each connection attempt and each reply.
func (t *target) connect(ctx context.Context, name string, timeout time.Duration) (*client, error) {
	o := t.options(name, timeout)
	switch t.kind {
	case kindCluster:
		return newCluster(o), nil
	case kindSentinel:
		return &client{UniversalClient: redis.NewFailoverClient(o.Failover())}, nil
	}
	one := redis.NewClient(o.Simple())
	hello, err := one.Do(ctx, "hello").Slice()
	var refused redis.Error
	if err != nil && (!errors.As(err, &refused) || !strings.Contains(strings.ToLower(err.Error()), "unknown command")) {
		shut(one)
		return nil, err
	}
	// The reply has names and values in turn.
	if i := slices.Index(hello, any("mode")) + 1; i == 0 || i == len(hello) || hello[i] != "cluster" {
		return &client{UniversalClient: one}, nil // also a server before Redis 6, which knows no HELLO
	}
	shut(one)
	return newCluster(o), nil
}

func newCluster(o *redis.UniversalOptions) *client {
	c := o.Cluster()
	c.MaxRetries = 0 // redirects retry
	c.DisableRoutingPolicies, c.ClusterStateReloadInterval = true, 10*time.Second
	return &client{UniversalClient: redis.NewClusterClient(c), sharded: true}
}

// dial replaces go-redis' own dialer, whose TLS handshake does not end with ctx.
func (t *target) dial(timeout time.Duration) func(context.Context, string, string) (net.Conn, error) {
	d := &net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}
	if t.tls == nil {
		return d.DialContext
	}
	return (&tls.Dialer{NetDialer: d, Config: t.tls}).DialContext
}

// options returns the options of every kind of client. RESP2, since RESP3's pushes are not
// used; no maintenance notifications, which only the vendor's own service sends. A command
// is tried twice, because the server may have closed a connection of the pool: all commands
// may be repeated, and receivers drop a repeated message.
func (t *target) options(name string, timeout time.Duration) *redis.UniversalOptions {
	return &redis.UniversalOptions{
		Addrs:      slices.Clone(t.addrs), // a client appends to them
		MasterName: t.master, SentinelUsername: t.sentinelUser, SentinelPassword: t.sentinelPassword,
		Username: t.user, Password: t.password, DB: t.db,
		ClientName: name, Protocol: 2, DisableIdentity: true, Dialer: t.dial(timeout),
		MaxRetries: 1, MaxRedirects: 2, MinRetryBackoff: 5 * time.Millisecond, MaxRetryBackoff: 50 * time.Millisecond,
		DialTimeout: timeout, DialerRetries: 1, ReadTimeout: timeout, WriteTimeout: timeout, ContextTimeoutEnabled: true,
		PoolSize: pool, PoolTimeout: timeout, PipelinePoolSize: -1, FailingTimeoutSeconds: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// refusals explains errors of Redis, by what their texts contain; the first match counts.
// Unavailable may pass by itself; anything else needs an operator.
var refusals = []struct {
	texts []string
	code  chat.Code
	msg   string
}{
	{[]string{"WRONGPASS", "NOAUTH", "invalid password", "without any password configured"}, chat.Unauthenticated, "Redis refuses the user name or password of the URL"},
	{[]string{"NOPERM"}, chat.Forbidden, "Redis does not let this user do what is needed: keys and channels under parley:, and the commands in docs/redis.md"},
	{[]string{"SSUBSCRIBE", "ssubscribe", "SPUBLISH", "spublish"}, chat.Unsupported, "this Redis Cluster has no sharded pub/sub: it takes Redis 7 or newer"},
	{[]string{"cluster support disabled"}, chat.Invalid, "the URL says Cluster (several hosts, or redis+cluster), and the server is none"},
	{[]string{"SELECT is not allowed in cluster mode"}, chat.Invalid, "the URL has a database; a Cluster has only number 0"},
	{[]string{"DB index is out of range"}, chat.Invalid, "Redis has no database of the number in the URL"},
	{[]string{"NOREPLICAS"}, chat.Unavailable, "Redis has too few replicas to take writes (min-replicas-to-write)"},
	{[]string{"OOM "}, chat.Unavailable, "Redis is full (maxmemory)"},
	{[]string{"MISCONF"}, chat.Unavailable, "Redis takes no writes because it cannot save to disk"},
	{[]string{"READONLY"}, chat.Unavailable, "this Redis is a replica"},
	{[]string{"LOADING"}, chat.Unavailable, "Redis is still loading its data"},
	{[]string{"CLUSTERDOWN", "TRYAGAIN"}, chat.Unavailable, "the Redis Cluster is down in part"},
	{[]string{"max number of clients"}, chat.Unavailable, "Redis has as many connections as it takes (maxclients)"},
}

// explain gives an error of Redis a code and a message that says what to do.
func explain(op string, err error) error {
	var known *chat.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	var refused redis.Error
	var unknownCA *tls.CertificateVerificationError
	var notTLS tls.RecordHeaderError
	code, msg := chat.Unavailable, "Redis cannot be reached"
	switch {
	case errors.As(err, &unknownCA):
		code, msg = chat.Invalid, "the certificate of Redis is not trusted: see tls_ca and tls_server_name"
	case errors.As(err, &notTLS):
		code, msg = chat.Invalid, "Redis speaks no TLS there: redis:// instead of rediss://, or another port"
	case errors.As(err, &refused):
		msg = "Redis refuses"
	}
	for _, r := range refusals {
		if slices.ContainsFunc(r.texts, func(text string) bool { return strings.Contains(err.Error(), text) }) {
			code, msg = r.code, r.msg
			break
		}
	}
	return &chat.Error{Code: code, Op: op, Msg: msg, Err: err}
}
