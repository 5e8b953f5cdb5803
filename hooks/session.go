package hooks

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// connections numbers the connections of this process: mochi knows each by its
// number, so that it never finds two with one client id and takes nothing over.
var connections atomic.Uint64

// OnConnect implements mqtt.Hook: it decides whether the client may connect, and
// answers itself if not, because mochi could only answer 0x86.
func (h *Hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	conn, ok := cl.Net.Conn.(*broker.Conn)
	if !ok {
		return packets.ErrRejectPacket
	}
	ctx, cancel := context.WithCancel(context.Background()) // the connection's life; canceled in Ended
	p, err := h.admit(ctx, cl, &pk)
	if err != nil {
		cancel()
		h.metrics.connects.WithLabelValues(string(chat.CodeOf(err))).Inc()
		code := broker.ConnackReason(err, pk.ProtocolVersion)
		if errors.Is(err, errAuthMethod) {
			code = packets.ErrBadAuthenticationMethod
		}
		if chat.CodeOf(err) == chat.Internal {
			h.logger.Error("connect failed", "client_id", cl.ID, "err", err)
		}
		_ = h.server.SendConnack(cl, code)
		return packets.ErrRejectPacket
	}
	h.metrics.connects.WithLabelValues("accepted").Inc()
	h.logger.Debug("connected", "client_id", cl.ID, "principal", p.Username, "remote", cl.Net.Remote, "mqtt", pk.ProtocolVersion)
	c := &connection{Conn: conn, principal: p, clientID: cl.ID, hash: chat.SessionHash(p.UserID, cl.ID), ctx: ctx, cancel: cancel}
	c.intake = broker.NewIntake(conn, c.refused)

	cl.ID = strconv.FormatUint(connections.Add(1), 36)
	cl.Properties.Clean = true // mochi keeps no session, no will and no alias of its own
	cl.Properties.Will = mqtt.Will{}
	cl.Properties.Props.SessionExpiryInterval, cl.Properties.Props.SessionExpiryIntervalFlag = 0, false
	cl.Properties.Props.TopicAliasMaximum = 0

	receiveMaximum := int(pk.Properties.ReceiveMaximum)
	conn.Accepted(cl, c, func() { c.session.Writable() })
	s, old := h.o.Router.Attach(delivery.SessionOptions{Principal: p, ClientID: c.clientID, ReceiveMaximum: receiveMaximum, Sink: conn})
	c.session = s
	if old != nil {
		old.Disconnect(delivery.ErrTakenOver)
	}
	if h.o.Authenticator.Revoked(p) { // since admit looked; from Attach on Revoke finds it
		s.Disconnect(delivery.ErrRevoked)
	}
	return nil
}

var errAuthMethod = &chat.Error{Code: chat.Unsupported, Op: "hooks.OnConnect", Msg: "enhanced authentication is not offered"}

// admit tells who connects, and whether as they may.
func (h *Hook) admit(ctx context.Context, cl *mqtt.Client, pk *packets.Packet) (chat.Principal, error) {
	if pk.Properties.AuthenticationMethod != "" {
		return chat.Principal{}, errAuthMethod
	}
	if id := pk.Connect.ClientIdentifier; len(id) > chat.MaxClientIDBytes || !plainText(id) {
		return chat.Principal{}, &chat.Error{Code: chat.Invalid, Field: "client id", Msg: "must have at most 256 bytes of UTF-8 without control characters"}
	}
	if !pk.Connect.PasswordFlag || len(pk.Connect.Password) == 0 {
		return chat.Principal{}, &chat.Error{Code: chat.Unauthenticated, Msg: "send an access token as the password, or user name and password"}
	}
	ctx, cancel := chat.WithDeadline(ctx, h.o.AuthTimeout, "hooks.authenticate")
	defer cancel()
	username, password := string(pk.Connect.Username), string(pk.Connect.Password)
	if !isToken(pk.Connect.Password) {
		if username == "" {
			return chat.Principal{}, &chat.Error{Code: chat.Unauthenticated, Msg: "a password needs a user name"}
		}
		return h.o.Authenticator.VerifyPassword(ctx, username, password)
	}
	return h.o.Authenticator.VerifyToken(ctx, password)
}

// isToken reports whether a password has the form of a JWT: three parts of which
// the first begins like the base64 of a JSON object.
func isToken(password []byte) bool {
	return bytes.HasPrefix(password, []byte("eyJ")) && bytes.Count(password, []byte{'.'}) == 2
}

func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 })
}

// OnPacketEncode implements mqtt.Hook: CONNACK says what mochi does not.
func (h *Hook) OnPacketEncode(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	switch {
	case pk.FixedHeader.Type != packets.Connack:
		return pk
	case cl.Properties.ProtocolVersion != 5 && pk.ReasonCode > packets.Err3NotAuthorized.Code:
		return refusalV3(cl, pk)
	case cl.Properties.ProtocolVersion != 5 || pk.ReasonCode != 0:
		return pk
	}
	pk.Properties.MaximumPacketSize = uint32(h.server.Limits().MaxPacket)
	pk.Properties.SharedSubAvailable, pk.Properties.SharedSubAvailableFlag = 0, true
	pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = 0, true
	if c := connectionOf(cl); c != nil && cl.Properties.Props.AssignedClientID != "" {
		pk.Properties.AssignedClientID = c.clientID
	}
	return pk
}

// refusalV3 puts into the words of MQTT 3.1.1 what mochi found wrong with a
// CONNECT and says in those of 5.0. Where 3.1.1 has no word for it, the
// connection is closed without CONNACK (MQTT 3.1.1, 3.1.4).
func refusalV3(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	switch {
	case cl.Properties.ProtocolVersion != 4:
		pk.ReasonCode = packets.Err3UnsupportedProtocolVersion.Code // [MQTT-3.1.2-2]
	case cl.Properties.Props.AssignedClientID != "" && !cl.Properties.Clean:
		pk.ReasonCode = packets.Err3ClientIdentifierNotValid.Code // [MQTT-3.1.3-8]
	default:
		if conn, ok := cl.Net.Conn.(*broker.Conn); ok {
			conn.DisconnectCode(pk.ReasonCode, "")
		}
	}
	return pk
}

// disconnect checks a DISCONNECT before mochi acts on it.
func (h *Hook) disconnect(c *connection, pk packets.Packet) (packets.Packet, error) {
	if c.Version() == 5 && pk.Properties.SessionExpiryIntervalFlag && pk.Properties.SessionExpiryInterval > 0 {
		return nothing, c.protocolError("a session without expiry cannot get one at DISCONNECT") // MQTT 5.0, 3.14.2.2.2
	}
	pk.Properties.SessionExpiryIntervalFlag = false
	return pk, nil
}

// Ended implements broker.Hook. A client whose packet could not be read, or that
// was silent for too long, is told so.
func (h *Hook) Ended(conn *broker.Conn, err error) {
	c, ok := conn.State.(*connection)
	if !ok {
		return
	}
	var code packets.Code
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		c.DisconnectCode(packets.ErrKeepAliveTimeout.Code, "nothing was heard within the keepalive's grace")
	case errors.As(err, &code) && code.Code >= packets.ErrUnspecifiedError.Code:
		c.DisconnectCode(code.Code, code.Reason)
	}
	c.cancel()
	c.intake.Close()
	h.o.Router.Detach(c.session)
	h.logger.Debug("disconnected", "client_id", c.clientID, "principal", c.principal.Username, "err", err)
}

// Revoke cuts the connections that a revocation is about: those of one login, or
// (login zero) all of a user. It does not block.
func (h *Hook) Revoke(user, login chat.ID) {
	for _, s := range h.o.Router.Sessions(user) {
		if login.IsZero() || s.Principal.LoginID == login {
			s.Disconnect(delivery.ErrRevoked)
		}
	}
}
