package hooks

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
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
	c, err := h.open(ctx, conn, cl, &pk)
	if err != nil {
		cancel()
		h.metrics.connects.WithLabelValues(string(chat.CodeOf(err))).Inc()
		code := broker.ConnackReason(err, pk.ProtocolVersion)
		switch {
		case errors.Is(err, errAuthMethod):
			code = packets.ErrBadAuthenticationMethod
		case errors.Is(err, errLeaving) && pk.ProtocolVersion == 5:
			code = packets.Code{Code: packets.ErrUseAnotherServer.Code, Reason: code.Reason}
		case errors.As(err, new(*badWill)):
			code = packets.Code{Code: packets.ErrPayloadFormatInvalid.Code, Reason: code.Reason}
		}
		if chat.CodeOf(err) == chat.Internal {
			h.logger.Error("connect failed", "client_id", cl.ID, "err", err)
		}
		_ = h.server.SendConnack(cl, code)
		return packets.ErrRejectPacket
	}
	c.cancel = cancel
	h.metrics.connects.WithLabelValues("accepted").Inc()
	h.logger.Debug("connected", "client_id", cl.ID, "principal", c.principal.Username, "remote", cl.Net.Remote, "mqtt", pk.ProtocolVersion, "session_present", c.present)
	cl.ID = strconv.FormatUint(connections.Add(1), 36)
	cl.Properties.Clean = true // mochi keeps no session, no will and no alias of its own
	cl.Properties.Will = mqtt.Will{}
	cl.Properties.Props.SessionExpiryInterval, cl.Properties.Props.SessionExpiryIntervalFlag = 0, false
	cl.Properties.Props.TopicAliasMaximum = 0
	return nil
}

// open makes the connection of a client that has sent CONNECT, if it may have one.
func (h *Hook) open(ctx context.Context, conn *broker.Conn, cl *mqtt.Client, pk *packets.Packet) (*connection, error) {
	if _, leaving := h.server.Leaving(); leaving {
		return nil, errLeaving
	}
	on := conn.Listener()
	p, err := h.admit(ctx, conn, cl, pk)
	if err != nil {
		return nil, err
	}
	switch {
	case on.NameIsClientID && p.Username == "":
		return nil, &chat.Error{Code: chat.Forbidden, Field: "username", Msg: "is needed here: it is the client id"}
	case on.NameIsClientID:
		cl.ID = p.Username
		cl.Properties.Props.AssignedClientID = ""
	case on.NoEmptyClientID && cl.Properties.Props.AssignedClientID != "":
		return nil, &chat.Error{Code: chat.Invalid, Field: "client id", Msg: "must not be empty here"}
	}
	p = p.OnDevice(cl.ID)
	c := &connection{Conn: conn, principal: p, clientID: cl.ID, hash: chat.SessionHash(p.UserID, cl.ID), ctx: ctx, cancel: func() {}}
	c.user = chat.TopicUser{Principal: p, ClientID: cl.ID, Access: on.Topics}
	c.asked, c.expiry = h.expiry(pk)
	if c.will, err = readWill(p, pk); err != nil {
		return nil, err
	}
	if c.left, err = h.readDeviceWill(c.user, c.hash, pk); err != nil {
		return nil, err
	}
	c.feed.wake = make(chan struct{}, 1)
	c.intake = broker.NewIntake(conn, c.refused)
	conn.Accepted(cl, c, func() { h.writable(c) })
	if err := h.lineUp(ctx); err != nil {
		conn.Rejected()
		return nil, err
	}
	defer func() { <-h.taking }()
	taking, taken := chat.WithDeadline(ctx, h.o.AuthTimeout, "hooks.take")
	defer taken()
	c.session, c.present, err = h.o.Router.Take(taking, delivery.SessionOptions{
		Principal: p, ClientID: cl.ID, ReceiveMaximum: int(pk.Properties.ReceiveMaximum), Sink: conn,
		CleanStart: pk.Connect.Clean, Expiry: c.expiry, Releasing: c.intake.Releasing,
	})
	if err != nil {
		conn.Rejected()
		return nil, err
	}
	if h.authenticator(conn).Revoked(p) { // while it could not be found by Revoke
		h.o.Router.Detach(c.session)
		conn.Rejected()
		return nil, &chat.Error{Code: chat.Unauthenticated, Msg: "the login was revoked"}
	}
	h.resumeDevices(c)
	return c, nil
}

// lineUp waits for a place among those who take their sessions: first come, first
// served, for as long as clients wait for a CONNACK.
func (h *Hook) lineUp(ctx context.Context) error {
	ctx, cancel := chat.WithDeadline(ctx, h.o.LineTimeout, "hooks.lineUp")
	defer cancel()
	select {
	case h.taking <- struct{}{}:
		return nil
	case <-ctx.Done():
		return &chat.Error{Code: chat.Unavailable, Op: "hooks.connect", Msg: "too many are connecting; try again", Err: context.Cause(ctx)}
	}
}

// expiry returns the session expiry that the client asks for, and the one it gets.
// In MQTT 3.1.1 a session without clean session is kept for as long as any.
func (h *Hook) expiry(pk *packets.Packet) (asked, granted time.Duration) {
	switch {
	case pk.ProtocolVersion == 5 && pk.Properties.SessionExpiryInterval == math.MaxUint32: // never (MQTT 5.0, 3.1.2.11.2)
		asked = math.MaxInt64
	case pk.ProtocolVersion == 5:
		asked = time.Duration(pk.Properties.SessionExpiryInterval) * time.Second
	case !pk.Connect.Clean:
		asked = h.o.MaxSessionExpiry
	}
	return asked, min(asked, h.o.MaxSessionExpiry)
}

var errLeaving = &chat.Error{Code: chat.Unavailable, Op: "hooks.OnConnect", Msg: "the server is stopping; connect to another one"}

var errAuthMethod = &chat.Error{Code: chat.Unsupported, Op: "hooks.OnConnect", Msg: "enhanced authentication is not offered"}

// admit tells who connects, and whether as they may.
func (h *Hook) admit(ctx context.Context, conn *broker.Conn, cl *mqtt.Client, pk *packets.Packet) (chat.Principal, error) {
	if pk.Properties.AuthenticationMethod != "" {
		return chat.Principal{}, errAuthMethod
	}
	if id := pk.Connect.ClientIdentifier; len(id) > chat.MaxClientIDBytes || !plainText(id) {
		return chat.Principal{}, &chat.Error{Code: chat.Invalid, Field: "client id", Msg: "must have at most 256 bytes of UTF-8 without control characters"}
	}
	ctx, cancel := chat.WithDeadline(ctx, h.o.AuthTimeout, "hooks.authenticate")
	defer cancel()
	auth := h.authenticator(conn)
	guests, _ := auth.(chat.GuestBook)
	if conn.Listener().NameFromCertificate {
		name, ok := conn.CertificateName()
		if !ok || guests == nil {
			return chat.Principal{}, &chat.Error{Code: chat.Unauthenticated, Msg: "the user name here is that of a client certificate, and none was shown that has one"}
		}
		return guests.VerifyCertificate(ctx, name)
	}
	if !pk.Connect.PasswordFlag || len(pk.Connect.Password) == 0 {
		if guests != nil {
			return guests.VerifyGuest(ctx, string(pk.Connect.Username))
		}
		if h.o.Anonymous {
			return chat.AnonymousPrincipal(), nil
		}
		return chat.Principal{}, &chat.Error{Code: chat.Unauthenticated, Msg: "send an access token as the password, or user name and password"}
	}
	username, password := string(pk.Connect.Username), string(pk.Connect.Password)
	if !isToken(pk.Connect.Password) {
		if username == "" && guests != nil {
			return guests.VerifyGuest(ctx, "")
		}
		if username == "" {
			return chat.Principal{}, &chat.Error{Code: chat.Unauthenticated, Msg: "a password needs a user name"}
		}
		if guests != nil {
			if p, err := guests.VerifyGuestPassword(ctx, username, password); chat.CodeOf(err) != chat.Unauthenticated {
				return p, err
			}
		}
		if h.o.Logins != nil { // before the hash: whoever guesses must not fill the queue for it
			if err := h.o.Logins.Allow(remoteAddr(cl)); err != nil {
				return chat.Principal{}, err
			}
		}
		return auth.VerifyPassword(ctx, username, password)
	}
	return auth.VerifyToken(ctx, password)
}

// authenticator returns who tells who connects by the connection's listener.
func (h *Hook) authenticator(conn *broker.Conn) chat.Authenticator {
	if a := conn.Listener().Authenticator; a != nil {
		return a
	}
	return h.o.Authenticator
}

// remoteAddr is the address of the connection's other end.
func remoteAddr(cl *mqtt.Client) netip.Addr {
	ap, _ := netip.ParseAddrPort(cl.Net.Remote) // what is none shares one limit with its kind
	return ap.Addr()
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
	case pk.ReasonCode == packets.ErrUseAnotherServer.Code:
		pk.Properties.ServerReference, _ = h.server.Leaving()
		return pk
	}
	c := connectionOf(cl)
	if pk.ReasonCode != 0 || c == nil {
		return pk
	}
	pk.SessionPresent = c.present
	if c.Version() != 5 {
		return pk
	}
	pk.Properties.MaximumPacketSize = uint32(h.server.Limits().MaxPacket)
	pk.Properties.TopicAliasMaximum = maxAliases
	if c.asked != c.expiry {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = uint32(c.expiry/time.Second), true // [MQTT-3.2.2.3.2]
	}
	if cl.Properties.Props.AssignedClientID != "" {
		pk.Properties.AssignedClientID = c.clientID
	}
	return pk
}

// refusalV3 puts into the words of MQTT 3.1.1 what mochi found wrong with a
// CONNECT and says in those of 5.0. Where 3.1.1 has no word for it, the
// connection is closed without CONNACK (MQTT 3.1.1, 3.1.4).
func refusalV3(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	if cl.Properties.Props.AssignedClientID != "" && !cl.Properties.Clean {
		pk.ReasonCode = packets.Err3ClientIdentifierNotValid.Code // [MQTT-3.1.3-8]
	} else if conn, ok := cl.Net.Conn.(*broker.Conn); ok {
		conn.DisconnectCode(pk.ReasonCode, "")
	}
	return pk
}

// OnSessionEstablished implements mqtt.Hook: CONNACK is out, publications may follow.
func (h *Hook) OnSessionEstablished(cl *mqtt.Client, _ packets.Packet) {
	c := connectionOf(cl)
	if c == nil {
		return
	}
	c.session.Start()
	c.welcomed = true
	h.o.Topics.WillBack(c.user, c.present)
	if !c.principal.HasAccount() {
		return // nobody sees a guest come and go
	}
	h.o.Chat.Wills.Back(c.device(), c.present)
	c.stay = h.o.Chat.DeviceCame(c.device())
	if c.present { // signals were missed
		h.tellTyping(c, c.session.Filters(chat.TopicTyping))
		h.tellPresence(c, c.session.Filters(chat.TopicPresence))
	}
}

// disconnect checks a DISCONNECT before mochi acts on it.
func (h *Hook) disconnect(c *connection, pk packets.Packet) (packets.Packet, error) {
	if c.Version() == 5 && pk.Properties.SessionExpiryIntervalFlag {
		seconds := pk.Properties.SessionExpiryInterval
		if seconds > 0 && c.asked == 0 {
			return nothing, c.protocolError("a session without expiry cannot get one at DISCONNECT") // MQTT 5.0, 3.14.2.2.2
		}
		c.expiry = min(time.Duration(seconds)*time.Second, h.o.MaxSessionExpiry)
		c.session.SetExpiry(c.expiry)
	}
	c.goodbye = c.Version() < 5 || c.Goodbye() == 0 // any other asks for the will (MQTT 5.0, 3.14.4)
	pk.Properties.SessionExpiryIntervalFlag = false
	return pk, nil
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
	c.cancel()
	c.intake.Close()
	h.deviceWent(c)
	h.went(c)
	c.feed.wait()
	c.retained.wait()
	h.o.Router.Detach(c.session)
	h.logger.Debug("disconnected", "client_id", c.clientID, "principal", c.principal.Username, "err", err)
}

// Recheck cuts the connections of clients that would not be let in any more, after
// what their listener's Authenticator goes by has changed, and returns how many. It
// does not block.
func (h *Hook) Recheck() (cut int) {
	h.o.Router.Each(func(s *delivery.Session, sink delivery.Sink) {
		if conn, ok := sink.(*broker.Conn); ok && h.authenticator(conn).Revoked(s.Principal) {
			s.Disconnect(delivery.ErrRevoked)
			cut++
		}
	})
	return cut
}

// Revoke cuts the user's connections that a revocation concerns. It does not block.
func (h *Hook) Revoke(user chat.ID, concerns func(chat.Principal) bool) {
	for _, s := range h.o.Router.Sessions(user) {
		if concerns(s.Principal) {
			s.Disconnect(delivery.ErrRevoked)
		}
	}
}
