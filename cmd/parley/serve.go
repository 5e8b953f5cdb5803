package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	mosquitto "github.com/parleymq/parley/mosquitto-compat"
	"github.com/parleymq/parley/topics"
)

// serveCmd is the server's configuration. Addresses may have port 0; those really
// bound are in the log line "ready".
type serveCmd struct {
	databaseFlags
	tokenFlags
	MQTTAddr  string `name:"mqtt-addr" env:"PARLEY_MQTT_ADDR" placeholder:"ADDR" help:"Address for MQTT. Default: :1883, or what --mosquitto-conf says."`
	MQTTSAddr string `name:"mqtts-addr" env:"PARLEY_MQTTS_ADDR" placeholder:"ADDR" help:"Address for MQTT over TLS. Default: :8883, if there is a certificate."`
	TLSCert   string `name:"tls-cert" env:"PARLEY_TLS_CERT" placeholder:"FILE" help:"PEM file with the server's certificate and intermediate certificates. It is read again when it changes."`
	TLSKey    string `name:"tls-key" env:"PARLEY_TLS_KEY" placeholder:"FILE" help:"PEM file with the certificate's private key."`
	HTTPAddr  string `name:"http-addr" env:"PARLEY_HTTP_ADDR" default:":8080" help:"Address for REST and for MQTT over WebSocket (/mqtt)."`
	AdminAddr string `env:"PARLEY_ADMIN_ADDR" placeholder:"ADDR" help:"Address for /metrics and /debug/pprof, without authentication: choose one that only you can reach. Default: none."`
	Redis     string `name:"redis" env:"REDIS_URL" placeholder:"URL" help:"Redis that connects this node with others on the same database: redis://, rediss:// (TLS), several hosts separated by commas for a Cluster, redis+sentinel://. Default: this is the only node."`
	Node      string `env:"PARLEY_NODE" placeholder:"NAME" help:"Name of this node, in logs and with sessions; unique among the nodes on the database. Default: the host name."`
	Origins   string `name:"allowed-origins" env:"PARLEY_ALLOWED_ORIGINS" placeholder:"ORIGIN,…" help:"Origins of web pages that may call REST and /mqtt, besides the server's own."`

	ProxyFrom     string `name:"proxy-protocol-from" env:"PARLEY_PROXY_PROTOCOL_FROM" placeholder:"CIDR,…" help:"Load balancers that begin each connection with a PROXY header (version 1 or 2) naming the client: required for MQTT, optional for HTTP."`
	ForwardedFrom string `env:"PARLEY_FORWARDED_FROM" placeholder:"CIDR,…" help:"Reverse proxies whose X-Forwarded-For is trusted, besides those of --proxy-protocol-from."`

	Drain           *time.Duration `env:"PARLEY_DRAIN" placeholder:"TIME" help:"After SIGTERM, disconnect MQTT clients spread over this time, such as 30s, so that they do not all reconnect elsewhere at once. A second signal ends it. Default: 5s with Redis, 0 (all at once) without."`
	ServerReference string         `env:"PARLEY_SERVER_REFERENCE" placeholder:"HOST:PORT…" help:"Other servers, named to MQTT 5 clients when they are disconnected (0x9C, Server Reference); separated by spaces."`
	MosquittoConf   string         `name:"mosquitto-conf" env:"PARLEY_MOSQUITTO_CONF" placeholder:"FILE" help:"Replace a Mosquitto with this configuration: its listeners, password and ACL files. A verdict on each line is printed."`

	MaxConnections int  `env:"PARLEY_MAX_CONNECTIONS" default:"1000000" help:"MQTT connections that may be open at once."`
	MaxPacketRate  int  `env:"PARLEY_MAX_PACKET_RATE" default:"2000" help:"Packets a second that are read from one MQTT connection; from all of a user twice, of an address 25 times as many. 0: any number."`
	NoRateLimits   bool `env:"PARLEY_NO_RATE_LIMITS" help:"Do not limit sign-ups and logins for each address: for load tests."`

	OpenTopics bool `name:"open-topics" env:"PARLEY_OPEN_TOPICS" help:"Open every device topic to everybody, even without an account: for test benches only."`

	LogLevel  slog.Level `env:"PARLEY_LOG_LEVEL" default:"info" help:"debug, info, warn or error."`
	LogFormat string     `env:"PARLEY_LOG_FORMAT" enum:"auto,json,text" default:"auto" help:"json, text, or auto: text on a terminal, otherwise json."`
}

// Run implements parley serve: it returns after SIGINT or SIGTERM and an orderly
// stop, or when a part has failed.
func (c *serveCmd) Run(ctx context.Context, tty terminal) error {
	logger := c.logger(tty.Err)
	o, err := c.options(logger)
	if err != nil {
		return err
	}
	var rules *mosquitto.Rules
	if c.MosquittoConf != "" {
		if rules, err = c.likeMosquitto(&o, tty.Out, logger); err != nil {
			return err
		}
	}
	for first := true; ; first = false {
		err := c.serve(ctx, tty, o, rules, first)
		if !errors.Is(err, chat.ErrSetBack) || ctx.Err() != nil {
			return err
		}
		logger.Warn("starting again: nothing that is in memory is true any more", "err", err)
	}
}

// serve runs one server to its end. The first one says on the terminal where everything is.
func (c *serveCmd) serve(ctx context.Context, tty terminal, o app.Options, rules *mosquitto.Rules, first bool) (err error) {
	logger := o.Logger
	a := app.New(o)
	if err := a.Start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop while starting
		}
		return err
	}
	if first {
		banner(tty.Out, a)
	}
	reload := make(chan os.Signal, 1)
	if rules != nil { // without rules, SIGHUP ends the process, as when its terminal is closed
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
	}
	for running := true; running; {
		select {
		case <-reload:
			reloadRules(rules, a, logger)
			continue
		case <-ctx.Done():
			logger.Info("stopping")
		case err = <-a.Failed():
			logger.Error("stopping", "err", err)
			if errors.Is(err, chat.ErrSetBack) {
				a.Hurry()
			}
		}
		running = false
	}
	start := time.Now()
	again, ignore := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
	defer ignore()
	defer context.AfterFunc(again, func() {
		logger.Info("second signal: stopping at once")
		a.Hurry()
		signal.Reset(os.Interrupt, syscall.SIGTERM) // a third one ends the process
	})()
	err = errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
	logger.Info("stopped", "elapsed_ms", time.Since(start).Milliseconds())
	return err
}

func (c *serveCmd) options(logger *slog.Logger) (app.Options, error) {
	db, err := c.database(logger)
	if err != nil {
		return app.Options{}, err
	}
	o := app.Options{
		DatabaseURL: db.URL, DataDir: db.DataDir, PostgresBin: db.PostgresBin,
		RedisURL: c.Redis, Node: c.node(), MQTTAddr: c.MQTTAddr, HTTPAddr: c.HTTPAddr, AdminAddr: c.AdminAddr,
		Version: version(), Logger: logger,
	}
	if c.NoRateLimits {
		o.SignupRate = identity.Rate{Every: -1}
		o.LoginRate = o.SignupRate
	}
	if c.OpenTopics {
		logger.Warn("device topics are open to everybody, even without an account (--open-topics): for test benches only")
		o.TopicAccess = topics.Open{}
	}
	o.Limits.PacketRate = cmp.Or(c.MaxPacketRate, -1)
	var faults [10]error
	o.Drain, faults[0] = c.drain()
	o.ServerReference, faults[1] = c.serverReference()
	o.ProxyFrom, faults[2] = prefixes("proxy-protocol-from", c.ProxyFrom)
	o.ForwardedFrom, faults[3] = prefixes("forwarded-from", c.ForwardedFrom)
	faults[4] = c.secure(&o)
	faults[5] = c.apply(&o.Identity)
	o.Limits.MaxConnections, faults[6] = c.maxConnections()
	faults[7] = checkNode(o.Node)
	o.AllowedOrigins, faults[8] = allowedOrigins(c.Origins)
	if c.MaxPacketRate < 0 || c.MaxPacketRate > maxPacketRate {
		faults[9] = fmt.Errorf("--max-packet-rate: %d is not 0 to %d", c.MaxPacketRate, maxPacketRate)
	}
	return o, errors.Join(faults[:]...)
}

func allowedOrigins(list string) (origins []string, err error) {
	for _, s := range splitList(list) {
		origin, fault := app.ParseOrigin(s)
		if fault != nil {
			err = errors.Join(err, fmt.Errorf("--allowed-origins: %w", fault))
		}
		origins = append(origins, origin)
	}
	return origins, err
}

const maxPacketRate = 1_000_000

func (c *serveCmd) maxConnections() (int, error) {
	if c.MaxConnections < 1 {
		return 0, fmt.Errorf("--max-connections: %d is not 1 or more", c.MaxConnections)
	}
	return c.MaxConnections, nil
}

const maxNodeName = 128 // as cluster.Node has it

// checkNode refuses what cannot be the name of a node. It is in lines of the log, in rows, and
// in Redis.
func checkNode(name string) error {
	if len(name) > maxNodeName || !utf8.ValidString(name) || strings.TrimSpace(name) != name || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("--node: %q is not a name of at most %d bytes, without control characters or spaces around it", name, maxNodeName)
	}
	return nil
}

// maxDrain bounds a drain: whatever waits for the process to end will not wait for ever.
const maxDrain = time.Hour

func (c *serveCmd) drain() (time.Duration, error) {
	switch {
	case c.Drain == nil && c.Redis != "":
		return 5 * time.Second, nil // there are other nodes to connect to
	case c.Drain == nil:
		return 0, nil
	case *c.Drain < 0 || *c.Drain > maxDrain:
		return 0, fmt.Errorf("--drain: %v is not between 0 and %v", *c.Drain, maxDrain)
	}
	return *c.Drain, nil
}

// maxReference leaves room for the rest of DISCONNECT where a client's Maximum Packet Size
// is small.
const maxReference = 256

func (c *serveCmd) serverReference() (string, error) {
	s := c.ServerReference
	if len(s) > maxReference || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return "", fmt.Errorf("--server-reference: must be at most %d bytes of text, such as b.example.com:1883", maxReference)
	}
	return s, nil
}

// secure adds the listener for MQTT over TLS, if there is a certificate.
func (c *serveCmd) secure(o *app.Options) error {
	switch {
	case c.TLSCert == "" && c.TLSKey == "" && c.MQTTSAddr == "":
		return nil
	case c.TLSCert == "" || c.TLSKey == "":
		return errors.New("MQTT over TLS needs --tls-cert and --tls-key (PARLEY_TLS_CERT, PARLEY_TLS_KEY)")
	}
	o.Listeners = append(o.Listeners, app.Listener{Address: cmp.Or(c.MQTTSAddr, ":8883"), TLS: &broker.TLSFiles{CertFile: c.TLSCert, KeyFile: c.TLSKey}})
	return nil
}

func (c *serveCmd) logger(w io.Writer) *slog.Logger {
	opts := &slog.HandlerOptions{Level: c.LogLevel}
	var h slog.Handler = slog.NewJSONHandler(w, opts)
	if c.LogFormat == "text" || c.LogFormat == "auto" && isTerminal(w) {
		h = slog.NewTextHandler(w, opts)
	}
	return slog.New(h).With("node", c.node())
}

// node is the name of this process.
func (c *serveCmd) node() string {
	host, _ := os.Hostname() // empty: app has a default
	return cmp.Or(c.Node, host)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// banner shows a newcomer where everything is, and what to try.
func banner(w io.Writer, a *app.App) {
	webHost, webPort := dialable(a.HTTPAddr())
	api := "http://" + net.JoinHostPort(webHost, webPort)
	where, mosquitto := mqttAddresses(a)
	fmt.Fprintf(w, `
  Parley is ready.

    MQTT        %s
    WebSocket   ws://%s/mqtt
    REST        %s/api
    API docs    %s/docs

  Try it:

    1. Create an account:
       curl -s %s/api/users -H 'Content-Type: application/json' \
         -d '{"username":"ann","email":"ann@example.com","password":"correct horse"}'

    2. Subscribe to all your conversations:
       mosquitto_sub%s -V 5 -u ann -P 'correct horse' -q 1 -t 'conv/+/messages'

    3. Talk to somebody: README.md, "Two people talk".

  Ctrl-C stops it.

`, strings.Join(where, "\n                "), net.JoinHostPort(webHost, webPort), api, api, api, mosquitto)
}

// mqttAddresses returns where MQTT clients connect, and the flags with which mosquitto's
// clients do.
func mqttAddresses(a *app.App) (urls []string, flags string) {
	host, port := dialable(a.MQTTAddr())
	if a.MQTTAddr() != "" {
		urls = append(urls, "mqtt://"+net.JoinHostPort(host, port))
	}
	for _, l := range a.Addrs() {
		if l != "mqtt://"+a.MQTTAddr() {
			urls = append(urls, l)
		}
	}
	switch {
	case a.MQTTAddr() == "":
		return urls, " …" // TLS, or a socket: that takes more than a line
	case host != "localhost":
		flags += " -h " + host
	}
	if port != "1883" {
		flags += " -p " + port
	}
	return urls, flags
}

// dialable returns a bound address as a client on this machine would write it.
func dialable(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr, ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && (ip.IsUnspecified() || ip.IsLoopback()) {
		host = "localhost"
	}
	return host, port
}
