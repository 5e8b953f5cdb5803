package hooks

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// disconnect takes what a DISCONNECT says; broker ends the connection.
func (h *Hook) disconnect(c *connection, pk *packets.Packet) error {
	if c.Version() == 5 && pk.Properties.SessionExpiryIntervalFlag {
		seconds := pk.Properties.SessionExpiryInterval
		if seconds > 0 && c.requestedExpiry == 0 {
			return c.protocolError("a session without expiry cannot get one at DISCONNECT") // MQTT 5.0, 3.14.2.2.2
		}
		c.expiry = min(time.Duration(seconds)*time.Second, h.o.MaxSessionExpiry)
		c.session.SetExpiry(c.expiry)
	}
	c.normalDisconnect = c.DisconnectReceived() == 0 // any other asks for the will (MQTT 5.0, 3.14.4)
	return nil
}

// Ended implements broker.Hook. A client whose packet could not be read, or that
// was silent for too long, is told so.
func (h *Hook) Ended(conn *broker.Conn, err error) {
	c, ok := conn.State.(*connection)
	if !ok || c.session == nil { // it has not come so far
		return
	}
	var code packets.Code
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		c.DisconnectCode(packets.ErrKeepAliveTimeout.Code, "no packet came in time: within the grace of the keepalive, or, once begun, within the limit for one packet")
	case errors.As(err, &code) && code.Code >= packets.ErrUnspecifiedError.Code:
		c.DisconnectCode(code.Code, code.Reason)
	}
	c.intake.Close()
	h.leave(c)
	c.presenceFeed.end()
	c.retainedFeed.end()
	h.o.Router.Detach(c.session)
	h.logger.Debug("disconnected", "client_id", c.clientID, "principal", c.principal.Username, "err", err)
}

// willPatience is how long a device's next connection waits for the will of its last one.
const willPatience = 2 * time.Second

// leave ends the presence of the connection's device, and settles its will: what is due is
// published before another node may have the session.
func (h *Hook) leave(c *connection) {
	discarded := !c.connackSent || c.normalDisconnect || h.authenticator(c.Conn).Revoked(c.principal)
	if c.will != nil {
		h.o.Chat.Wills.Ended(c.will, c.expiry, discarded || c.SentAway() || h.server.Closing())
		ctx, cancel := chat.WithDeadline(context.Background(), willPatience, "hooks.leave")
		defer cancel()
		h.o.Chat.Wills.Await(ctx, c.device())
	}
	if !c.connackSent {
		return
	}
	if c.stay == 0 {
		return
	}
	end := c.presenceWill
	end.Gone, end.Expiry = discarded, c.expiry
	if newest := h.o.Presence.Disconnected(c.device(), c.stay, end); newest { // otherwise the device goes on typing
		h.o.Chat.DeviceLeft(c.device())
	}
}

// Recheck disconnects the clients that would be refused now, after what their listener's
// Authenticator goes by has changed, and returns how many. It does not block.
func (h *Hook) Recheck() (disconnected int) {
	h.o.Router.Each(func(s *delivery.Session, sink delivery.Sink) {
		if conn, ok := sink.(*broker.Conn); ok && h.authenticator(conn).Revoked(s.Principal) {
			s.Disconnect(delivery.ErrRevoked)
			disconnected++
		}
	})
	return disconnected
}

// Revoke disconnects those clients of the user that a revocation concerns. It does not block.
func (h *Hook) Revoke(user chat.ID, concerns func(chat.Principal) bool) {
	for _, s := range h.o.Router.Sessions(user) {
		if concerns(s.Principal) {
			s.Disconnect(delivery.ErrRevoked)
		}
	}
}
