package app

import (
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/broker"
)

// Clients must not use up the descriptors that the database and Redis need: then nothing that
// they send could be stored, and nobody would be let in to see why. So those are held back, and
// the rest is divided between MQTT and HTTP. Go has raised the soft limit to the hard one.
const (
	ownDescriptors   = 48 // listeners, log, certificates, the private PostgreSQL, those being accepted
	redisDescriptors = 48
	adminConnections = 8
	fewestClients    = 32 // with room for fewer, nothing is started
)

// divideDescriptors limits the connections by what the limit of open files allows.
func (a *App) divideDescriptors() error {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	limit := int(min(r.Cur, 1<<30)) // "unlimited" is the highest number
	held := ownDescriptors + adminConnections + a.store.Connections() + a.writer.Connections()
	if a.o.RedisURL != "" {
		held += redisDescriptors
	}
	free := limit - held
	if free < fewestClients {
		return fmt.Errorf("this process may open %d files, of which database, Redis and files need %d: raise the limit (ulimit -n, LimitNOFILE of systemd) to %d or more", limit, held, held+fewestClients)
	}
	standard := broker.Limits{}.WithDefaults().MaxConnections
	wanted := a.o.Limits.WithDefaults().MaxConnections
	mqtt := min(wanted, free-max(free/8, fewestClients/2))
	a.o.Limits.MaxConnections = mqtt
	turnedAway := newHTTPTurnedAway(a.registry)
	a.httpRoom = &room{max: int64(free - mqtt), turnedAway: turnedAway}
	a.adminRoom = &room{max: adminConnections, turnedAway: turnedAway}
	if mqtt < wanted {
		log := a.logger.Warn
		if wanted == standard { // nobody asked for so many
			log = a.logger.Info
		}
		log("the limit of open files (ulimit -n) allows fewer MQTT connections than --max-connections", "max_connections", wanted, "allowed", mqtt, "http", free-mqtt, "limit", limit, "held_back", held)
	}
	return nil
}

// room is how many connections to HTTP servers may be open at once. Those that become
// WebSockets are the broker's from then on.
type room struct {
	max        int64
	open       atomic.Int64
	turnedAway prometheus.Counter
}

// state is http.Server.ConnState. A connection for which there is no room is closed before
// anything is read from it.
func (r *room) state(c net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if r.open.Add(1) > r.max {
			r.turnedAway.Inc()
			_ = c.Close()
		}
	case http.StateHijacked, http.StateClosed:
		r.open.Add(-1)
	}
}
