package hooks

import (
	"bytes"
	"context"
	"errors"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// connections numbers the connections of this process: mochi knows each by its
// number, so that it never finds two with one client id and takes nothing over.
var connections atomic.Uint64

var (
	errLeaving    = &chat.Error{Code: chat.Unavailable, Op: "hooks.OnConnect", Msg: "the server is stopping; connect to another one"}
	errAuthMethod = &chat.Error{Code: chat.Unsupported, Op: "hooks.OnConnect", Msg: "enhanced authentication is not offered"}
)

// bridgeBit in the protocol version of a CONNECT before MQTT 5 says that the client is a
// bridge: Mosquitto's extension, which its bridges try first (try_private). A server that
// understands it gives all of the bridge's subscriptions what MQTT 5 has options for:
// No Local, so that nothing goes round, and Retain As Published.
const bridgeBit = 0x80

// asBridge notes that a CONNECT is a bridge's, and has mochi take it for a plain one.
func asBridge(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	if pk.ProtocolVersion&bridgeBit != 0 {
		pk.ProtocolVersion, connOf(cl).Bridge = pk.ProtocolVersion&^bridgeBit, true
	}
	return pk
}

// OnConnect implements mqtt.Hook: it decides whether the client may connect, and
// answers itself if not, because mochi could only answer 0x86.
func (h *Hook) OnConnect(cl *mqtt.Client, pk packets.Packet) error {
	ctx, cancel := context.WithCancel(context.Background()) // the connection's life; canceled in Ended
	c, err := h.connect(ctx, connOf(cl), cl, &pk)
	if err != nil {
		cancel()
		h.metrics.connects.WithLabelValues(string(chat.CodeOf(err))).Inc()
		code := broker.ConnackReason(err, pk.ProtocolVersion)
		var will *badWill
		switch {
		case errors.Is(err, errAuthMethod):
			code = packets.ErrBadAuthenticationMethod
		case errors.Is(err, errLeaving) && pk.ProtocolVersion == 5:
			code.Code = packets.ErrUseAnotherServer.Code
		case errors.As(err, &will):
			if pk.ProtocolVersion == 5 || will.err.Code == chat.Invalid { // for which MQTT 3.1.1 has no code, see refusalV3
				code.Code = will.code
			}
		}
		if chat.CodeOf(err) == chat.Internal {
			h.logger.Error("connect failed", "client_id", cl.ID, "err", err)
		}
		_ = h.server.SendConnack(cl, code)
		return packets.ErrRejectPacket
	}
	c.cancel = cancel
	h.metrics.connects.WithLabelValues("accepted").Inc()
	h.logger.Debug("connected", "client_id", cl.ID, "principal", c.principal.Username, "remote", cl.Net.Remote, "mqtt", pk.ProtocolVersion, "session_present", c.sessionPresent)
	cl.ID = strconv.FormatUint(connections.Add(1), 36)
	cl.Properties.Clean = true // mochi keeps no session, no will and no alias of its own
	cl.Properties.Will = mqtt.Will{}
	cl.Properties.Props.SessionExpiryInterval, cl.Properties.Props.SessionExpiryIntervalFlag = 0, false
	cl.Properties.Props.TopicAliasMaximum = 0
	return nil
}

// OnConnectAuthenticate implements mqtt.Hook: OnConnect has decided already,
// because only it can say why not.
func (h *Hook) OnConnectAuthenticate(*mqtt.Client, packets.Packet) bool { return true }

// connect makes the connection of a client that has sent CONNECT, if it may have one.
func (h *Hook) connect(ctx context.Context, conn *broker.Conn, cl *mqtt.Client, pk *packets.Packet) (*connection, error) {
	if _, leaving := h.server.Leaving(); leaving {
		return nil, errLeaving
	}
	p, err := h.authenticate(ctx, conn, cl, pk)
	if err != nil {
		return nil, err
	}
	listener := conn.Listener()
	switch {
	case listener.NameIsClientID && p.Username == "":
		return nil, &chat.Error{Code: chat.Forbidden, Field: "username", Msg: "is needed here: it is the client id"}
	case listener.NameIsClientID:
		cl.ID = p.Username
		cl.Properties.Props.AssignedClientID = ""
	case (listener.NoEmptyClientID || pk.ProtocolVersion == 3) && cl.Properties.Props.AssignedClientID != "": // MQTT 3.1, 3.1
		return nil, &chat.Error{Code: chat.Invalid, Field: "client id", Msg: "must not be empty here"}
	}
	p = p.OnDevice(cl.ID)
	c := &connection{
		Conn: conn, ctx: ctx, cancel: func() {}, principal: p, clientID: cl.ID, sessionHash: chat.SessionHash(p.UserID, cl.ID),
		topicUser: chat.TopicUser{Principal: p, ClientID: cl.ID, Access: listener.Topics}, writable: make(chan struct{}, 1),
		refusals: rate.Sometimes{Interval: time.Minute},
	}
	c.requestedExpiry, c.expiry = h.sessionExpiry(pk)
	if err := h.readWill(c, pk); err != nil {
		return nil, err
	}
	c.intake = broker.NewIntake(conn, func(p *broker.Publish, told bool) { h.refused(c, p, told) })
	if p.HasAccount() {
		conn.PaceAs(p.UserID)
	}
	conn.Accepted(cl, c, func() { h.becameWritable(c) })
	if err := h.takeSession(c, pk); err != nil {
		conn.Rejected()
		return nil, err
	}
	return c, nil
}

// takeSession takes the session of the connection's device, when there is a slot: first
// come, first served, for as long as clients wait for a CONNACK.
func (h *Hook) takeSession(c *connection, pk *packets.Packet) error {
	wait, waited := chat.WithDeadline(c.ctx, connectWait, "hooks.connect")
	defer waited()
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-wait.Done():
		return &chat.Error{Code: chat.Unavailable, Op: "hooks.connect", Msg: "too many are connecting; try again", Err: context.Cause(wait)}
	}
	ctx, cancel := chat.WithDeadline(c.ctx, authTimeout, "hooks.takeSession")
	defer cancel()
	var err error
	c.session, c.sessionPresent, err = h.o.Router.Take(ctx, delivery.SessionOptions{
		Principal: c.principal, ClientID: c.clientID, ReceiveMaximum: int(pk.Properties.ReceiveMaximum), Sink: c.Conn,
		CleanStart: pk.Connect.Clean, Expiry: c.expiry, Releasing: c.intake.Releasing, UnackedPublishes: c.intake.Unacked,
		Settle: func(ctx context.Context) {
			ctx, cancel := chat.WithDeadline(ctx, willPatience, "hooks.settleWills")
			defer cancel()
			h.o.Chat.Wills.Settle(ctx, c.device(), pk.Connect.Clean)
		},
		Taken: func(s *delivery.Session, present bool) {
			c.lane.ClientID, c.lane.Epoch = c.clientID, s.Epoch()
			h.o.Chat.Wills.Connected(c.device(), s.Epoch(), present, c.will)
		},
	})
	if err != nil {
		return err
	}
	if h.authenticator(c.Conn).Revoked(c.principal) { // while it could not be found by Revoke
		if c.will != nil {
			h.o.Chat.Wills.Ended(c.will, 0, true)
		}
		h.o.Router.Detach(c.session)
		return &chat.Error{Code: chat.Unauthenticated, Msg: "the login was revoked"}
	}
	c.intake.Restore(c.session.Releasing(), c.session.UnackedPublishes())
	h.resumeDevices(c)
	return nil
}

// sessionExpiry returns the session expiry that the client asks for, and the one it gets.
// In MQTT 3.1.1 a session without clean session is kept for as long as any.
func (h *Hook) sessionExpiry(pk *packets.Packet) (requested, granted time.Duration) {
	switch {
	case pk.ProtocolVersion == 5 && pk.Properties.SessionExpiryInterval == math.MaxUint32: // never (MQTT 5.0, 3.1.2.11.2)
		requested = math.MaxInt64
	case pk.ProtocolVersion == 5:
		requested = time.Duration(pk.Properties.SessionExpiryInterval) * time.Second
	case !pk.Connect.Clean:
		requested = h.o.MaxSessionExpiry
	}
	return requested, min(requested, h.o.MaxSessionExpiry)
}

// authenticate returns who connects, or why they may not.
func (h *Hook) authenticate(ctx context.Context, conn *broker.Conn, cl *mqtt.Client, pk *packets.Packet) (chat.Principal, error) {
	if pk.Properties.AuthenticationMethod != "" {
		return chat.Principal{}, errAuthMethod
	}
	if id := pk.Connect.ClientIdentifier; len(id) > chat.MaxClientIDBytes || !plainText(id) {
		return chat.Principal{}, &chat.Error{Code: chat.Invalid, Field: "client id", Msg: "must have at most 256 bytes of UTF-8 without control characters"}
	}
	ctx, cancel := chat.WithDeadline(ctx, authTimeout, "hooks.authenticate")
	defer cancel()
	auth := h.authenticator(conn)
	guests, _ := auth.(chat.GuestBook)
	if conn.Listener().NameFromCertificate {
		name, ok := conn.CertificateName()
		if !ok || guests == nil {
			return chat.Principal{}, unauthenticated("the user name here is that of a client certificate, and none was shown that has one")
		}
		return guests.VerifyCertificate(ctx, name)
	}
	username, password := string(pk.Connect.Username), string(pk.Connect.Password)
	switch {
	case isToken(pk.Connect.Password):
		p, err := auth.VerifyToken(ctx, password)
		if err != nil || username == "" || strings.EqualFold(username, p.Username) {
			return p, err
		}
		return p, h.checkName(ctx, username, p)
	case guests != nil && (password == "" || username == ""):
		return guests.VerifyGuest(ctx, username)
	case password == "" && h.o.Anonymous:
		return chat.AnonymousPrincipal(), nil
	case password == "":
		return chat.Principal{}, unauthenticated("send an access token as the password, or user name and password")
	case username == "":
		return chat.Principal{}, unauthenticated("a password needs a user name")
	}
	if guests != nil {
		if p, err := guests.VerifyGuestPassword(ctx, username, password); chat.CodeOf(err) != chat.Unauthenticated {
			return p, err
		}
	}
	return h.verifyPassword(ctx, cl, auth, username, password)
}

// checkName refuses the name of another user beside a token: the two contradict each other.
// Any other name says nothing; clients that must send one send "token".
func (h *Hook) checkName(ctx context.Context, username string, p chat.Principal) error {
	u, err := h.o.Users.FindUser(ctx, username)
	switch {
	case chat.CodeOf(err) == chat.NotFound:
		return nil
	case err == nil && u.ID != p.UserID:
		return unauthenticated("the user name is that of another user than the token's")
	}
	return err
}

// verifyPassword returns whose password it is, if the client's address is within the limit.
func (h *Hook) verifyPassword(ctx context.Context, cl *mqtt.Client, auth chat.Authenticator, username, password string) (chat.Principal, error) {
	if h.o.Logins == nil {
		return auth.VerifyPassword(ctx, username, password)
	}
	remote, _ := netip.ParseAddrPort(cl.Net.Remote)       // what has no address shares one limit with its kind
	decide, err := h.o.Logins.Reserve(ctx, remote.Addr()) // before the hash: guesses must not fill the queue for it
	if err != nil {
		return chat.Principal{}, err
	}
	wrong := false
	defer func() { decide(wrong) }()
	p, err := auth.VerifyPassword(ctx, username, password)
	// Who is let in without an account, where none is needed, has guessed wrong, too.
	wrong = chat.CodeOf(err) == chat.Unauthenticated || err == nil && !p.HasAccount()
	return p, err
}

func unauthenticated(msg string) error { return &chat.Error{Code: chat.Unauthenticated, Msg: msg} }

// authenticator returns the Authenticator of the connection's listener.
func (h *Hook) authenticator(conn *broker.Conn) chat.Authenticator {
	if a := conn.Listener().Authenticator; a != nil {
		return a
	}
	return h.o.Authenticator
}

// isToken reports whether a password has the form of a JWT: three parts of which
// the first begins like the base64 of a JSON object.
func isToken(password []byte) bool {
	return bytes.HasPrefix(password, []byte("eyJ")) && bytes.Count(password, []byte{'.'}) == 2
}

func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 })
}

// maxConnack is the most bytes that a CONNACK has beside an assigned client id.
const maxConnack = 64

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
	pk.SessionPresent = c.sessionPresent && c.Version() > 3 // MQTT 3.1 has no such flag
	if c.Version() != 5 {
		return pk
	}
	pk.Properties.MaximumPacketSize = uint32(h.server.Limits().MaxPacket)
	pk.Properties.TopicAliasMaximum = maxAliases
	if most := int(cl.Properties.Props.MaximumPacketSize); most == 0 || most >= maxConnack+len(c.clientID) { // [MQTT-3.2.2-20]
		pk.Properties.User = append(pk.Properties.User, packets.UserProperty{Key: "epoch", Val: string(h.o.Epoch)})
	}
	if c.requestedExpiry != c.expiry {
		pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = uint32(c.expiry/time.Second), true // [MQTT-3.2.2.3.2]
	}
	if cl.Properties.Props.AssignedClientID != "" {
		pk.Properties.AssignedClientID = c.clientID
	}
	return pk
}

// refusalV3 translates to MQTT 3.1.1 what mochi found wrong with a CONNECT and answers
// with a code of 5.0. Where 3.1.1 has no code for it, the connection is closed without
// CONNACK (MQTT 3.1.1, 3.1.4).
func refusalV3(cl *mqtt.Client, pk packets.Packet) packets.Packet {
	if cl.Properties.Props.AssignedClientID != "" && !cl.Properties.Clean {
		pk.ReasonCode = packets.Err3ClientIdentifierNotValid.Code // [MQTT-3.1.3-8]
	} else {
		connOf(cl).DisconnectCode(pk.ReasonCode, "")
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
	c.connackSent = true
	if !c.principal.HasAccount() {
		return // guests have no presence
	}
	c.stay = h.o.Presence.Connected(c.device())
	if c.sessionPresent { // signals were missed
		h.feedTyping(c, c.session.Filters(chat.TopicTyping))
		h.feedPresence(c, c.session.Filters(chat.TopicPresence))
	}
}
