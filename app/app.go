// Package app is a whole Parley process: it makes every part, joins them, starts
// them in order and stops them in the reverse order. cmd/parley serves one; tests
// and benchmarks run one or several in their own process, on port 0.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"sync"
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
	"github.com/parleymq/parley/rest"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/topics"
)

// App is one Parley process. Start may be called once, and Stop after it.
type App struct {
	o        Options
	logger   *slog.Logger
	registry *prometheus.Registry

	dsn      string
	lease    *store.NodeLease // nil: Options.ShareDatabase without Redis
	others   *others          // nil: a node alone
	store    *store.Store
	identity *identity.Service
	logins   *identity.Limiter // of passwords, for each address, at every door
	chat     *chat.Service
	router   *delivery.Router
	topics   *topics.Engine
	broker   *broker.Server
	hook     *hooks.Hook
	mqtt     net.Listener
	http     net.Listener
	admin    net.Listener

	listeners []*listening // of Options.Listeners

	hurried context.Context // ended by Hurry
	hurry   context.CancelFunc
	ready   atomic.Bool // what /readyz answers, if the database is there
	failed  chan error  // what ended by itself

	stops []stop // last in, first out
}

// stop undoes one step of Start.
type stop struct {
	name   string
	f      func(context.Context) error
	within time.Duration // 0: StopTimeout
}

// New returns a process that has not been started.
func New(o Options) *App {
	o.setDefaults()
	a := &App{o: o, logger: o.Logger, registry: prometheus.NewRegistry(), failed: make(chan error, 8)}
	a.hurried, a.hurry = context.WithCancel(context.Background())
	a.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return a
}

// onStop has f called by Stop, before what was registered earlier.
func (a *App) onStop(name string, f func(context.Context) error) {
	a.stops = append(a.stops, stop{name: name, f: f})
}

// Start starts everything and returns when the process serves. If it fails,
// everything that was started has been stopped again.
func (a *App) Start(ctx context.Context) error {
	start := time.Now()
	ctx, cancel := chat.WithDeadline(ctx, a.o.StartTimeout, "start")
	defer cancel()
	for _, step := range []func(context.Context) error{a.listen, a.openDatabase, a.join, a.serve} {
		if err := step(ctx); err != nil {
			return errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
		}
	}
	a.ready.Store(true)
	a.logger.Info("ready", "mqtt", a.MQTTAddr(), "listeners", a.Addrs(), "http", a.HTTPAddr(), "admin", a.AdminAddr(), "elapsed_ms", time.Since(start).Milliseconds())
	return nil
}

// listen binds every address, first of all: a port that is taken is the commonest
// fault, and the cheapest to find.
func (a *App) listen(context.Context) error {
	for _, l := range []struct {
		what, addr, flag string
		to               *net.Listener
	}{{"MQTT", a.o.MQTTAddr, "PARLEY_MQTT_ADDR", &a.mqtt}, {"HTTP", a.o.HTTPAddr, "PARLEY_HTTP_ADDR", &a.http}, {"admin", a.o.AdminAddr, "PARLEY_ADMIN_ADDR", &a.admin}} {
		if l.addr == "" || l.addr == NoMQTT {
			continue
		}
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("listen for %s: %w (choose another address with %s)", l.what, err, l.flag)
		}
		*l.to = ln
		a.onStop("close the "+l.what+" listener", func(context.Context) error { return closeListener(ln) })
	}
	for _, l := range a.o.Listeners {
		if err := a.listenFor(l); err != nil {
			return err
		}
	}
	return nil
}

func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

func (a *App) openDatabase(ctx context.Context) error {
	db := Database{URL: a.o.DatabaseURL, DataDir: a.o.DataDir, PostgresBin: a.o.PostgresBin, Logger: a.logger}
	dsn, closeDB, err := db.Serve(ctx)
	if err != nil {
		return err
	}
	a.onStop("stop the private PostgreSQL", closeDB)
	a.dsn = dsn
	if _, _, err := store.Migrate(ctx, dsn, a.logger); err != nil && chat.CodeOf(err) != chat.Unavailable {
		return err
	} else if err != nil { // perhaps it is starting: Open waits for it
		st, err := store.Open(ctx, store.Options{DSN: dsn, Logger: a.logger})
		if err != nil {
			return err
		}
		st.Close()
		if _, _, err := store.Migrate(ctx, dsn, a.logger); err != nil {
			return err
		}
	}
	a.store, err = store.Open(ctx, store.Options{DSN: dsn, Logger: a.logger})
	if err != nil {
		return err
	}
	a.onStop("close the database pool", func(context.Context) error { a.store.Close(); return nil })
	return a.joinNodes(ctx)
}

// join makes the parts that talk to the database and to clients, and starts those
// that run by themselves.
func (a *App) join(ctx context.Context) error {
	var err error
	i := a.o.Identity
	i.Store, i.Clock, i.Logger, i.Registerer = a.store, chat.SystemClock{}, a.logger, a.registry
	a.identity, err = identity.New(i)
	if err != nil {
		return err
	}
	a.chat = chat.NewService(a.store, chat.SystemClock{})
	a.chat.Presences.Use(a.presence())
	_, open := a.o.TopicAccess.(topics.Open)
	t := topics.Options{
		Access: a.o.TopicAccess, OneSpace: open || a.o.OneTopicSpace, Store: a.store, Sys: a.sys, Logger: a.logger, Registerer: a.registry,
	}
	if a.others != nil {
		t.Forward = a.others.bus.Publication
	}
	a.topics = topics.New(t)
	a.router = delivery.NewRouter(delivery.Options{
		Log: a.store, Sessions: a.store, Receipts: a.chat, Node: a.o.Node, MaxSessions: a.o.MaxUserSessions,
		Ended: func(q *delivery.Queue) { a.topics.End(q) }, Logger: a.logger, Registerer: a.registry,
		Cluster: a.deliveryCluster(),
	})
	a.runBus()
	a.run("device topics", a.topics.Run)
	a.onStop("end catch-ups", func(context.Context) error { a.router.Close(); return nil })

	indexer := store.NewIndexer(a.store, store.IndexerOptions{Logger: a.logger, Registerer: a.registry})
	a.run("search index", indexer.Run)
	w := a.o.Writer
	w.Recheck, w.Logger, w.Registerer = a.chat.Recheck, a.logger, a.registry
	if w.Fence = a.fence(); a.others != nil {
		w.Node, w.Commits = a.store.JournalNode, a.commits
	}
	w.Committed = func(ctx context.Context, e *chat.Event, membersVersion int64) {
		indexer.Note(e.ConversationID, e.Seq)
		a.chat.Committed(ctx, e, membersVersion)
	}
	writer := store.NewWriter(a.store.WriterConfig(), w)
	a.chat.Use(writer, a.router)
	a.run("store what is queued", writer.Run)
	a.run("clear up doubts", a.chat.Run)
	a.run("store what was read", a.chat.RunReads)
	a.run("send wills", a.chat.Wills.Run)
	a.run("identity", a.identity.Run)
	if err := a.releaseFormer(ctx); err != nil {
		return err
	}
	a.run("save sessions", a.router.Run)
	registerChat(a.registry, a.chat)
	a.run("tell who is here", a.chat.Presences.Run)
	if a.others != nil {
		a.run("release the former self", a.releaseFormerPresences)
	}

	a.logins = identity.NewLimiter(a.o.LoginRate, identity.DefaultLoginRate, chat.SystemClock{})
	a.hook = hooks.New(hooks.Options{
		Chat: a.chat, Authenticator: a.identity, Logins: a.logins, Router: a.router, Fence: a.fence(),
		Topics: a.topics, Anonymous: open, MaxSessionExpiry: a.o.MaxSessionExpiry, Logger: a.logger, Registerer: a.registry,
	})
	a.identity.OnRevoked(func(r identity.Revocation) { a.hook.Revoke(r.UserID, r.Concerns) })
	a.broker, err = broker.New(broker.Options{
		Limits: a.o.Limits, Hook: a.hook, Fence: a.fence(), Reference: a.o.ServerReference, AllowedOrigins: a.o.AllowedOrigins, Logger: a.logger, Registerer: a.registry,
	})
	if err != nil {
		return err
	}
	a.hook.Serve(a.broker)
	a.onStop("tell MQTT clients goodbye", a.broker.Shutdown)
	return nil
}

// run starts a component that runs until Stop comes to it.
func (a *App) run(name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background()) // the component's life; Stop cancels it
	var wg sync.WaitGroup
	var result error
	wg.Go(func() {
		result = f(ctx)
		if ctx.Err() == nil {
			a.fail(fmt.Errorf("%s ended by itself: %w", name, result))
		}
	})
	a.onStop(name, func(context.Context) error { cancel(); wg.Wait(); return result })
}

func (a *App) fail(err error) {
	select {
	case a.failed <- err:
	default:
	}
}

// serve starts taking connections.
func (a *App) serve(context.Context) error {
	mux := http.NewServeMux()
	o := rest.Options{
		Chat: a.chat, Identity: a.identity, Logger: a.logger, Registerer: a.registry, Version: a.o.Version,
		Ready: a.checkReady, AllowedOrigins: a.o.AllowedOrigins, SignupRate: a.o.SignupRate, Logins: a.logins,
	}
	metrics := promhttp.HandlerFor(a.registry, promhttp.HandlerOpts{})
	if a.admin == nil {
		o.Metrics = metrics
	} else {
		adminMux := http.NewServeMux()
		adminMux.Handle("/metrics", metrics)
		adminMux.HandleFunc("/debug/pprof/", pprof.Index)
		adminMux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		adminMux.HandleFunc("/debug/pprof/trace", pprof.Trace)
		adminMux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		a.serveHTTP("admin", a.admin, adminMux, 0) // a profile takes as long as it is asked to
	}
	mux.Handle("/mqtt", a.broker.WebSocket(nil))
	mux.Handle("/", rest.New(o))
	proxies := broker.NewProxies(broker.ProxyOptions{From: a.o.ProxyFrom, Logger: a.logger, Registerer: a.registry})
	a.serveHTTP("HTTP", proxies.Listen(a.http, true), rest.Forwarded(slices.Concat(a.o.ProxyFrom, a.o.ForwardedFrom), mux), time.Minute)
	a.stops = append(a.stops, stop{"send MQTT clients away", a.drain, a.o.Drain + a.o.StopTimeout})
	if a.mqtt != nil {
		a.run("MQTT listener", func(ctx context.Context) error {
			defer context.AfterFunc(ctx, func() { _ = closeListener(a.mqtt) })()
			return a.broker.Serve(proxies.Listen(a.mqtt, false), nil)
		})
	}
	for _, l := range a.listeners {
		a.serveListener(l, proxies)
	}
	a.onStop("not ready", func(context.Context) error { a.ready.Store(false); return nil })
	return nil
}

func (a *App) serveHTTP(name string, l net.Listener, h http.Handler, writeTimeout time.Duration) {
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: writeTimeout,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(a.logger.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	go func() { // ends when the listener is closed; the stop below waits for it
		defer close(done)
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			a.fail(fmt.Errorf("%s server: %w", name, err))
		}
	}()
	a.onStop("finish "+name+" requests", func(ctx context.Context) error {
		err := srv.Shutdown(ctx)
		if err != nil {
			err = errors.Join(err, srv.Close())
		}
		<-done
		return err
	})
}

// checkReady is the answer of /readyz: started, not stopping, database there.
func (a *App) checkReady(ctx context.Context) error {
	if !a.ready.Load() {
		return &chat.Error{Code: chat.Unavailable, Msg: "starting or stopping"}
	}
	return a.store.Ping(ctx)
}

// drain has clients go one after the other, while HTTP still answers.
func (a *App) drain(ctx context.Context) error {
	if a.o.Drain > 0 {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(a.hurried, cancel)()
		a.broker.Drain(ctx, a.o.Drain)
	}
	return nil
}

// Hurry ends the drain of a Stop that is running, or comes: whoever is left is sent
// away at once. It may be repeated.
func (a *App) Hurry() { a.hurry() }

// Failed tells of a part that has ended by itself, after which the process should
// stop.
func (a *App) Failed() <-chan error { return a.failed }

// Stop stops everything that Start has started, in the reverse order, and returns
// what went wrong, joined. Each step has StopTimeout, and that of sending clients away
// Drain beside it; see Hurry. It may be repeated.
func (a *App) Stop(ctx context.Context) error {
	var errs []error
	for len(a.stops) > 0 {
		s := a.stops[len(a.stops)-1]
		a.stops = a.stops[:len(a.stops)-1]
		start := time.Now()
		step, cancel := chat.WithDeadline(ctx, cmp.Or(s.within, a.o.StopTimeout), "stop: "+s.name)
		err := s.f(step)
		cancel()
		a.logger.Debug("stopped", "step", s.name, "elapsed_ms", time.Since(start).Milliseconds(), "err", err)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}

// MQTTAddr returns the address bound for MQTT: that of the first unencrypted one of
// Options.Listeners, if Options.MQTTAddr is NoMQTT, or "" if there is none.
func (a *App) MQTTAddr() string {
	if a.mqtt != nil {
		return addr(a.mqtt)
	}
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
