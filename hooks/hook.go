package hooks

import (
	"cmp"
	"context"
	"log/slog"
	"runtime"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/presence"
	"github.com/parleymq/parley/topics"
)

const (
	maxSubscriptions = 5000             // filters of one session
	connectWait      = 30 * time.Second // for one of the slots for taking a session
	authTimeout      = 10 * time.Second // for authentication, and again for taking the session
	subscribeTimeout = 10 * time.Second // for what SUBSCRIBE and UNSUBSCRIBE ask of the store
)

// Options configures a Hook.
type Options struct {
	Chat          *chat.Service
	Presence      *presence.Engine
	Authenticator chat.Authenticator
	Users         Users
	Logins        chat.Limiter // limits wrong passwords, not tokens; nil: no limit
	Router        *delivery.Router
	Epoch         chat.LogEpoch  // of the log, for CONNACK
	Fence         *chat.Fence    // every PUBLISH waits for it; nil: none
	Topics        *topics.Engine // for device topics
	Anonymous     bool           // clients without a password connect without an account, and have device topics only
	Logger        *slog.Logger
	Registerer    prometheus.Registerer // nil: no metrics

	MaxSessionExpiry time.Duration // how long a session is kept at most after its connection [90 days]
}

// Users is what a Hook needs of identity.Service, beside chat.Authenticator.
type Users interface {
	// FindUser returns a user by user name or email address, or NotFound.
	FindUser(ctx context.Context, login string) (*chat.User, error)
}

// Hook is the server's broker.Hook.
type Hook struct {
	o       Options
	logger  *slog.Logger
	metrics *metrics
	server  *broker.Server
	// slots holds a value for each session being taken, two for each CPU: other CONNECTs
	// wait, so that a storm of them leaves the database to the rest.
	slots    chan struct{}
	refusals *rate.Limiter // of log lines about refused publishes and wills, beside that of each connection
}

// New returns a hook. Serve must be called with the server it is attached to.
func New(o Options) *Hook {
	o.MaxSessionExpiry = cmp.Or(o.MaxSessionExpiry, 90*24*time.Hour)
	return &Hook{
		o: o, logger: o.Logger.With("component", "hooks"), metrics: newMetrics(o.Registerer),
		slots: make(chan struct{}, 2*runtime.GOMAXPROCS(0)), refusals: rate.NewLimiter(10, 100),
	}
}

var _ broker.Hook = (*Hook)(nil)

// Serve sets the server. It must be called before any connection is accepted.
func (h *Hook) Serve(s *broker.Server) { h.server = s }

// Packet implements broker.Hook.
func (h *Hook) Packet(conn *broker.Conn, pk *packets.Packet) error {
	c := conn.State.(*connection)
	c.session.Heard(pk.FixedHeader.Type == packets.Pingreq, pk.FixedHeader.Type == packets.Disconnect)
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return h.publish(c, pk)
	case packets.Puback:
		return c.acknowledged(c.session.Puback(pk.PacketID))
	case packets.Pubrec:
		return c.pubrec(pk)
	case packets.Pubrel:
		return c.pubrel(pk)
	case packets.Pubcomp:
		return c.acknowledged(c.session.Pubcomp(pk.PacketID))
	case packets.Subscribe:
		return h.subscribe(c, pk)
	case packets.Unsubscribe:
		h.unsubscribe(c, pk)
	case packets.Disconnect:
		return h.disconnect(c, pk)
	case packets.Pingreq:
		c.WritePingresp()
	}
	return nil
}

// connection is what the hooks know of a connection, from CONNECT on. It is owned by
// the connection's reader, except where its parts say otherwise. What the reader waits for
// needs no context of the connection's: that it has ended is seen when the reader reads on.
type connection struct {
	*broker.Conn
	principal   chat.Principal
	clientID    string
	assigned    bool   // the server has chosen it
	sessionHash uint64 // chat.SessionHash of them

	session         *delivery.Session
	sessionPresent  bool          // CONNACK's Session Present
	requestedExpiry time.Duration // the Session Expiry Interval that the client asked for
	expiry          time.Duration // and the one it got
	connackSent     bool
	stay            presence.Connection // the presence of the device; 0: a guest's, or CONNACK is not out

	presenceWill     presence.End // Will and Delay: a will on the user's presence; zero: none
	will             *chat.Will   // on anything else; nil: none
	normalDisconnect bool         // DISCONNECT with reason code 0x00 has come, which discards the will

	intake       *broker.Intake
	refusals     rate.Sometimes      // limits log lines about its refused publishes
	lane         topics.Lane         // keeps its publishes to device topics in order
	aliases      *[maxAliases]string // topic names that the client has given numbers, from 1 (MQTT 5.0, 3.3.2.3.4); nil: none
	presenceFeed feed[chat.ID]       // whose presence is to be sent
	retainedFeed feed[topics.Subscription]
}

// topicUser is who the client is on device topics.
func (c *connection) topicUser() chat.TopicUser {
	return chat.TopicUser{Principal: c.principal, ClientID: c.clientID, Access: c.Listener().Topics}
}

func (c *connection) device() chat.Device {
	return chat.Device{UserID: c.principal.UserID, ClientID: c.clientID}
}

// protocolError ends the connection with 0x82.
func (c *connection) protocolError(reason string) error {
	return c.end(packets.ErrProtocolViolation, reason)
}

func (c *connection) end(code packets.Code, reason string) error {
	c.DisconnectCode(code.Code, reason)
	return packets.ErrRejectPacket
}
