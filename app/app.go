// Package app is a whole Parley process: it constructs every part, starts them in order
// and stops them in the reverse order. cmd/parley serves one; tests and benchmarks run
// one or several in their own process, on port 0.
//
// Read Start from top to bottom for what there is: listen binds the addresses,
// openDatabase opens the database and acquires this node's lease, build constructs the parts
// in the order of their dependencies, start runs those that run, and serve lets clients
// in. Constructors start nothing. Everything that has to be undone is a step of the
// lifecycle, which Stop goes through backwards.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/hooks"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/rest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/topics"
)

// App is one Parley process. Start may be called once, and Stop after it.
type App struct {
	lifecycle
	o        Options
	logger   *slog.Logger
	registry *prometheus.Registry

	dsn      string
	epoch    chat.LogEpoch
	witness  *store.Witness
	lease    *store.NodeLease
	others   *others // nil: a node alone
	store    *store.Store
	clock    *store.Clock
	identity *identity.Service
	logins   *identity.Limiter // of password checks, for each address, over HTTP and MQTT together
	chat     *chat.Service
	presence *presence.Engine
	indexer  *store.Indexer
	writer   *store.Writer
	router   *delivery.Router
	topics   *topics.Engine
	hook     *hooks.Hook
	broker   *broker.Server

	origins   *origins
	http      net.Listener
	admin     net.Listener
	httpRoom  *room
	adminRoom *room
	listeners []*listening // for MQTT: Options.MQTTAddr and Options.Listeners

	hurried context.Context // ended by Hurry
	hurry   context.CancelFunc
	ready   atomic.Bool // what /readyz answers, if the database is there
}

// New returns a process that has not been started.
func New(o Options) *App {
	o.setDefaults()
	a := &App{o: o, logger: o.Logger, registry: prometheus.NewRegistry()}
	a.lifecycle = lifecycle{logger: o.Logger, limit: o.StopTimeout, failed: make(chan error, 8)}
	a.hurried, a.hurry = context.WithCancel(context.Background())
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a
}

// Start starts everything and returns when the process serves. If it fails,
// everything that was started has been stopped again.
func (a *App) Start(ctx context.Context) error {
	start := time.Now()
	ctx, cancel := chat.WithDeadline(ctx, a.o.StartTimeout, "start")
	defer cancel()
	for _, step := range []func(context.Context) error{a.listen, a.openDatabase, a.build, a.start, a.serve} {
		if err := step(ctx); err != nil {
			return errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
		}
	}
	a.logger.Info("ready", "mqtt", a.MQTTAddr(), "listeners", a.Addrs(), "http", a.HTTPAddr(), "admin", a.AdminAddr(), "elapsed_ms", time.Since(start).Milliseconds())
	return nil
}

// Stop stops everything that Start has started, in the reverse order, and returns
// what went wrong, joined. Each step may take StopTimeout, and that of sending clients
// away Drain beside it; see Hurry. It may be repeated.
func (a *App) Stop(ctx context.Context) error { return a.stop(ctx) }

// Hurry ends the drain of a Stop that is running or comes later: clients that are still
// connected are disconnected at once. It may be repeated.
func (a *App) Hurry() { a.hurry() }

// Failed receives the error of a component that has ended by itself, after which the
// process should stop.
func (a *App) Failed() <-chan error { return a.failed }

// listen binds every address, first of all: a port in use is the most common fault, and
// the cheapest to find.
func (a *App) listen(context.Context) (err error) {
	if a.origins, err = newOrigins(a.o.AllowedOrigins, a.logger); err != nil {
		return fmt.Errorf("allowed origins: %w", err)
	}
	if a.o.MQTTAddr != NoMQTT {
		if err := a.listenMQTT(Listener{Address: a.o.MQTTAddr}, "MQTT", " (choose another address with PARLEY_MQTT_ADDR)"); err != nil {
			return err
		}
	}
	if a.http, err = a.bind("HTTP", "tcp", a.o.HTTPAddr, " (choose another address with PARLEY_HTTP_ADDR)"); err != nil {
		return err
	}
	if a.o.AdminAddr != "" {
		if a.admin, err = a.bind("admin", "tcp", a.o.AdminAddr, " (choose another address with PARLEY_ADMIN_ADDR)"); err != nil {
			return err
		}
	}
	for _, l := range a.o.Listeners {
		if err := a.listenMQTT(l, "", ""); err != nil {
			return err
		}
	}
	return nil
}

// openDatabase starts the private PostgreSQL, if that is the database, migrates the
// schema, connects, and acquires this node's lease.
func (a *App) openDatabase(ctx context.Context) error {
	db := Database{URL: a.o.DatabaseURL, DataDir: a.o.DataDir, PostgresBin: a.o.PostgresBin, Logger: a.logger}
	dsn, closeDB, err := db.Serve(ctx)
	if err != nil {
		return err
	}
	a.onStop("stop the private PostgreSQL", closeDB)
	a.dsn = dsn
	if a.store, err = store.OpenMigrated(ctx, store.Options{DSN: dsn, Logger: a.logger}); err != nil {
		return err
	}
	a.onStop("close the database pool", func(context.Context) error { a.store.Close(); return nil })
	a.witness = &store.Witness{}
	if err = a.checkWitness(ctx); err != nil {
		return err
	}
	if a.clock, err = a.store.NewClock(ctx); err != nil {
		return err
	}
	if a.epoch, err = a.store.Epoch(ctx); err != nil {
		return err
	}
	return a.joinNodes(ctx)
}

// build constructs the parts, each after those that it uses. None of them does anything
// yet, so a function that one of them is given may use a part that comes later.
func (a *App) build(context.Context) (err error) {
	i := a.o.Identity
	i.Store, i.Clock, i.Logger, i.Registerer = a.store, a.clock, a.logger, a.registry
	if a.identity, err = identity.New(i); err != nil {
		return err
	}
	a.presence = presence.New(a.presenceOptions())
	a.chat = chat.NewService(a.store, chat.SystemClock{}, a.presence)
	registerChat(a.registry, a.chat)
	registerPresence(a.registry, a.presence)
	_, open := a.o.TopicAccess.(topics.Open)
	a.topics = topics.New(topics.Options{
		Access: a.o.TopicAccess, OneSpace: open || a.o.OneTopicSpace, MaxPublication: a.o.Limits.MaxPacket, Store: a.store, Forward: a.forward(), Sys: a.sys,
		Logger: a.logger, Registerer: a.registry,
	})
	a.router = delivery.NewRouter(delivery.Options{
		Log: a.store, Sessions: a.store, Receipts: a.chat, Epoch: a.epoch, Node: a.o.Node, MaxSessions: a.o.MaxUserSessions,
		QueueBytes: a.queueBytes(), Ended: func(q *delivery.Queue) { a.topics.End(q) }, Logger: a.logger, Registerer: a.registry,
		Cluster: a.deliveryCluster(),
	})
	a.indexer = store.NewIndexer(a.store, store.IndexerOptions{Logger: a.logger, Registerer: a.registry})
	w := a.o.Writer
	w.Recheck, w.Logger, w.Registerer = a.chat.Recheck, a.logger, a.registry
	if w.Fence = a.fence(); a.others != nil {
		w.Node, w.Commits = a.store.OutboxNode, a.commits
	}
	w.Committed = func(ctx context.Context, e *chat.Event, membersVersion int64) {
		a.witness.Note(e)
		a.indexer.Note(e)
		a.chat.Committed(ctx, e, membersVersion)
	}
	w.GivenUp = func(conversation chat.ID) {
		a.indexer.Scan()
		a.chat.Unconfirmed(conversation)
	}
	a.writer = store.NewWriter(a.store.WriterConfig(), w)
	if err := a.divideDescriptors(); err != nil {
		return err
	}
	// A real cycle: chat submits events to the writer and hands committed ones to the
	// router; both need chat, to check members and to count receipts.
	a.chat.Use(a.writer, a.router)

	a.logins = identity.NewLimiter(a.o.LoginRate, identity.DefaultLoginRate, chat.SystemClock{})
	a.hook = hooks.New(hooks.Options{
		Chat: a.chat, Presence: a.presence, Authenticator: a.identity, Users: a.identity, Logins: a.logins, Router: a.router, Epoch: a.epoch, Fence: a.fence(),
		Topics: a.topics, Anonymous: open, MaxSessionExpiry: a.o.MaxSessionExpiry, Logger: a.logger, Registerer: a.registry,
	})
	a.identity.OnRevoked(func(r identity.Revocation) { a.hook.Revoke(r.UserID, r.Concerns) })
	a.broker, err = broker.New(broker.Options{
		Limits: a.o.Limits, Hook: a.hook, Fence: a.fence(), Reference: a.o.ServerReference, AllowOrigin: a.origins.allow, Logger: a.logger, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.hook.Serve(a.broker) // the other cycle: broker calls the hook, and the hook finds connections
	return nil
}

// queueBytes is how much may wait for one session: four packets of the largest size, at least.
func (a *App) queueBytes() int { return max(chat.MaxQueuedBytes, 4*a.o.Limits.MaxPacket) }

// start runs what runs by itself, in the order in which it is needed: stopping goes the
// other way round.
func (a *App) start(ctx context.Context) error {
	if err := a.startNode(ctx); err != nil {
		return err
	}
	a.run("device topics", a.topics.Run)
	a.onStop("end catch-ups", func(context.Context) error { a.router.Close(); return nil })
	a.run("search index", a.indexer.Run)
	a.run("witness", a.keepWitness)
	a.run("writer", a.writer.Run)
	a.run("unconfirmed changes", a.chat.Run)
	a.run("read receipts", a.chat.RunReads)
	a.run("wills", a.chat.Wills.Run)
	a.run("clock of the database", a.clock.Run)
	a.run("identity", a.identity.Run)
	a.run("sessions", a.router.Run)
	a.run("memory", a.releaseMemory)
	a.run("presence", a.presence.Run)
	if a.others != nil {
		a.run("presence of the former process", a.releaseFormerPresences)
	}
	a.onStop("disconnect MQTT clients", a.broker.Shutdown)
	return nil
}

// serve accepts connections, once messages can be stored.
func (a *App) serve(ctx context.Context) error {
	if err := a.writer.Await(ctx); err != nil {
		return err
	}
	o := rest.Options{
		Chat: a.chat, Presence: a.presence, Identity: a.identity, Epoch: a.epoch, Logger: a.logger, Registerer: a.registry, Version: a.o.Version,
		Ready: a.checkReady, AllowOrigin: a.origins.allow, Logins: a.logins,
		Signups: identity.NewLimiter(a.o.SignupRate, identity.DefaultSignupRate, chat.SystemClock{}),
	}
	if a.admin != nil {
		mux := http.NewServeMux()
		mux.Handle("/metrics", promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{}))
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		a.serveHTTP("admin", a.admin, a.adminRoom, mux, 0) // a profile takes as long as it is asked to
	}
	ws, api := a.broker.WebSocket(nil), rest.New(o)
	// No http.ServeMux, which redirects // and /./ to a path that it escapes twice.
	doors := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/mqtt" {
			ws.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
	proxies := broker.NewProxies(broker.ProxyOptions{From: a.o.ProxyFrom, Logger: a.logger, Registerer: a.registry})
	a.serveHTTP("HTTP", proxies.Listen(a.http, true), a.httpRoom, rest.Forwarded(slices.Concat(a.o.ProxyFrom, a.o.ForwardedFrom), doors), time.Minute)
	a.steps = append(a.steps, step{"send MQTT clients away", a.drain, a.o.Drain + a.o.StopTimeout})
	for _, l := range a.listeners {
		a.serveMQTT(l, proxies)
	}
	a.ready.Store(true)
	a.onStop("not ready", func(context.Context) error { a.ready.Store(false); return nil })
	return nil
}

// serveHTTP answers requests on a listener. At stop it finishes those that are running.
func (a *App) serveHTTP(name string, l net.Listener, r *room, h http.Handler, writeTimeout time.Duration) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: writeTimeout,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ConnState: r.state, ErrorLog: slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug),
	}
	a.run(name+" server", func(ctx context.Context) error {
		finished := make(chan error, 1)
		defer context.AfterFunc(ctx, func() {
			limited, cancel := chat.WithDeadline(context.WithoutCancel(ctx), a.o.StopTimeout, "finish requests")
			defer cancel()
			err := srv.Shutdown(limited)
			if err != nil {
				err = errors.Join(err, srv.Close())
			}
			finished <- err
		})()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return <-finished
	})
}

// checkReady is the answer of /readyz: started, not stopping, messages can be stored, and the
// database answers those who read.
func (a *App) checkReady(ctx context.Context) error {
	if !a.ready.Load() {
		return &chat.Error{Code: chat.Unavailable, Msg: "starting or stopping"}
	}
	if err := a.writer.Ready(ctx); err != nil {
		return err
	}
	return a.store.Ping(ctx)
}

// drain sends clients away one after the other, while HTTP still answers.
func (a *App) drain(ctx context.Context) error {
	if a.o.Drain > 0 {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(a.hurried, cancel)()
		a.broker.Drain(ctx, a.o.Drain)
	}
	return nil
}

// MQTTAddr returns the address bound for MQTT: that of Options.MQTTAddr, or the first
// unencrypted TCP one of Options.Listeners, or "" if there is none.
func (a *App) MQTTAddr() string {
	for _, l := range a.listeners {
		if l.Network != "unix" && !l.WebSocket && l.TLS == nil {
			return addr(l.l)
		}
	}
	return ""
}

// HTTPAddr returns the address bound for REST and WebSocket.
func (a *App) HTTPAddr() string { return addr(a.http) }

// AdminAddr returns the address bound for metrics and profiles, or "".
func (a *App) AdminAddr() string { return addr(a.admin) }

// DSN returns how to connect to the database in use.
func (a *App) DSN() string { return a.dsn }

// Store returns the database in use, for tests and tools beside the server.
func (a *App) Store() *store.Store { return a.store }

func addr(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}
