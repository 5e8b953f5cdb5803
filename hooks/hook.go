package hooks

import (
	"context"
	"log/slog"
	"runtime"
	"time"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/topics"
)

// Options configures a Hook.
type Options struct {
	Chat          *chat.Service
	Authenticator chat.Authenticator
	Logins        chat.Limiter // asked before a password is checked, not a token; nil: no limit
	Router        *delivery.Router
	Fence         *chat.Fence    // which every PUBLISH passes; nil: none
	Topics        *topics.Engine // for device topics
	Anonymous     bool           // whoever shows no password connects without an account, and has device topics only
	Logger        *slog.Logger
	Registerer    prometheus.Registerer // nil: no metrics

	MaxSessionExpiry time.Duration // how long a session is kept at most after its connection [90 days]
	LineTimeout      time.Duration // for a place among those who take their sessions [30 s]
	MaxTaking        int           // sessions being taken at once; the other CONNECTs wait in line, so that a storm of them leaves the database to the rest [2 for each CPU]
	MaxSubscriptions int           // filters of one session [5,000]
	AuthTimeout      time.Duration // for telling who connects, and again for taking the session [10 s]
	SubscribeTimeout time.Duration // for what SUBSCRIBE and UNSUBSCRIBE ask of the store [10 s]
}

// Hook is the one mochi hook of the server.
type Hook struct {
	mqtt.HookBase
	o       Options
	logger  *slog.Logger
	metrics *metrics
	server  *broker.Server
	taking  chan struct{} // a place for each session being taken
}

// New returns a hook. Serve must be called with the server it is attached to.
func New(o Options) *Hook {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxSessionExpiry == 0 {
		o.MaxSessionExpiry = 90 * 24 * time.Hour
	}
	if o.LineTimeout == 0 {
		o.LineTimeout = 30 * time.Second
	}
	if o.MaxTaking == 0 {
		o.MaxTaking = 2 * runtime.GOMAXPROCS(0)
	}
	if o.MaxSubscriptions == 0 {
		o.MaxSubscriptions = 5000
	}
	if o.AuthTimeout == 0 {
		o.AuthTimeout = 10 * time.Second
	}
	if o.SubscribeTimeout == 0 {
		o.SubscribeTimeout = 10 * time.Second
	}
	return &Hook{o: o, logger: o.Logger.With("component", "hooks"), metrics: newMetrics(o.Registerer), taking: make(chan struct{}, o.MaxTaking)}
}

var _ broker.Hook = (*Hook)(nil)

// Serve tells the hook whose it is, before any connection is taken.
func (h *Hook) Serve(s *broker.Server) { h.server = s }

// ID implements mqtt.Hook.
func (h *Hook) ID() string { return "parley" }

// Provides implements mqtt.Hook.
func (h *Hook) Provides(b byte) bool {
	switch b {
	case mqtt.OnConnect, mqtt.OnConnectAuthenticate, mqtt.OnSessionEstablished, mqtt.OnACLCheck, mqtt.OnPacketRead, mqtt.OnPacketEncode:
		return true
	}
	return false
}

// OnConnectAuthenticate implements mqtt.Hook: OnConnect has decided already,
// because only it can say why not.
func (h *Hook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

// OnACLCheck implements mqtt.Hook. Nothing that a client sends reaches it, see
// OnPacketRead; if something ever does, it is refused.
func (h *Hook) OnACLCheck(*mqtt.Client, string, bool) bool { return false }

// nothing is a packet that mochi reads as an acknowledgement of nothing.
var nothing = packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}}

// OnPacketRead implements mqtt.Hook: every packet from a client passes here, after
// decoding and before mochi acts on it. ErrRejectPacket closes the connection.
func (h *Hook) OnPacketRead(cl *mqtt.Client, pk packets.Packet) (packets.Packet, error) {
	c := connectionOf(cl)
	if c == nil {
		return withWill(asBridge(cl, pk)), nil // CONNECT, or nothing that mochi takes in its place
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return nothing, h.publish(c, &pk)
	case packets.Pubrel:
		h.pubrel(c, &pk)
	case packets.Puback:
		c.session.Puback(pk.PacketID)
	case packets.Pubrec:
		h.pubrec(c, &pk)
	case packets.Pubcomp:
		c.session.Pubcomp(pk.PacketID)
	case packets.Subscribe:
		return nothing, h.subscribe(c, &pk)
	case packets.Unsubscribe:
		return nothing, h.unsubscribe(c, &pk)
	case packets.Disconnect:
		return h.disconnect(c, pk)
	case packets.Pingreq:
		return pk, nil
	default: // CONNECT again, or packets that only a server sends
		return nothing, c.protocolError("a client must not send packet type " + packets.PacketNames[pk.FixedHeader.Type])
	}
	return nothing, nil
}

// bridgeBit in the protocol version of a CONNECT of MQTT 3.1.1 says that the client is a
// bridge: Mosquitto's extension, which its bridges try first (try_private). Whoever
// understands it gives all of the bridge's subscriptions what MQTT 5 has options for:
// No Local, so that nothing goes round, and Retain As Published.
const bridgeBit = 0x80

// asBridge notes that a CONNECT is a bridge's, and has mochi take it for MQTT 3.1.1.
func asBridge(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	conn, ok := cl.Net.Conn.(*broker.Conn)
	if ok && pk.FixedHeader.Type == packets.Connect && pk.ProtocolVersion == 4|bridgeBit && string(pk.Connect.ProtocolName) == "MQTT" {
		pk.ProtocolVersion, conn.Bridge = 4, true
	}
	return pk
}

// connection is what the hooks know of a connection, from CONNECT on. It is owned
// by the connection's reader, as far as its parts do not say otherwise.
type connection struct {
	*broker.Conn
	intake    *broker.Intake
	session   *delivery.Session
	principal chat.Principal
	clientID  string
	hash      uint64          // chat.SessionHash
	asked     time.Duration   // the session expiry that the client asked for
	expiry    time.Duration   // and the one it got
	present   bool            // the session was there before
	stay      chat.Stay       // in which the device is here; 0: CONNACK is not out
	will      *will           // nil: none, or of no interest
	welcomed  bool            // CONNACK is out
	goodbye   bool            // DISCONNECT with reason code 0 has come
	user      chat.TopicUser  // the same, for device topics
	lane      topics.Lane     // keeps the order of its publishes to them
	aliases   aliases         // of topic names, owned by the reader
	retained  retainedFeed    // gives the client retained messages
	left      *topics.Will    // its will on a device topic; nil: none
	feed      presenceFeed    // tells the client how its user's contacts are
	ctx       context.Context // ends with the connection
	cancel    context.CancelFunc
}

func connectionOf(cl *mqtt.Client) *connection {
	conn, ok := cl.Net.Conn.(*broker.Conn)
	if !ok {
		return nil
	}
	c, _ := conn.State.(*connection)
	return c
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
