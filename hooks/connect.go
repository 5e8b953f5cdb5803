package hooks

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"math"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"
	"golang.org/x/time/rate"

	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

var (
	errLeaving    = &chat.Error{Code: chat.Unavailable, Op: "hooks.OnConnect", Msg: "the server is stopping; connect to another one"}
	errAuthMethod = &chat.Error{Code: chat.Unsupported, Op: "hooks.OnConnect", Msg: "enhanced authentication is not offered"}
)

// bridgeBit in the protocol version of a CONNECT before MQTT 5 says that the client is a
// bridge: Mosquitto's extension, which its bridges try first (try_private). A server that
// understands it gives all of the bridge's subscriptions what MQTT 5 has options for:
// No Local, so that nothing goes round, and Retain As Published.
const bridgeBit = 0x80

// Connect implements broker.Hook: it decides whether the client may connect, and answers.
func (h *Hook) Connect(conn *broker.Conn, pk *packets.Packet) error {
	if pk.ProtocolVersion&bridgeBit != 0 {
		pk.ProtocolVersion, conn.Bridge = pk.ProtocolVersion&^bridgeBit, true
	}
	if code := incomplete(pk); code.Code != 0 {
		h.refuse(conn, pk, code)
		return code
	}
	assigned := pk.Connect.ClientIdentifier == ""
	if assigned {
		pk.Connect.ClientIdentifier = rand.Text() // [MQTT-3.1.3-6]
	}
	c, err := h.connect(conn, pk, assigned)
	if err != nil {
		h.metrics.connects.WithLabelValues(string(chat.CodeOf(err))).Inc()
		code := broker.ConnackReason(err, pk.ProtocolVersion)
		var will *badWill
		switch {
		case errors.Is(err, errAuthMethod):
			code = packets.ErrBadAuthenticationMethod
		case errors.Is(err, errLeaving) && pk.ProtocolVersion == 5:
			code.Code = packets.ErrUseAnotherServer.Code
		case errors.As(err, &will):
			if pk.ProtocolVersion == 5 || will.err.Code == chat.Invalid { // for which MQTT 3.1.1 has no code, see refuse
				code.Code = will.code
			}
		}
		if chat.CodeOf(err) == chat.Internal {
			h.logger.Error("connect failed", "client_id", pk.Connect.ClientIdentifier, "err", err)
		}
		h.refuse(conn, pk, code)
		return packets.ErrRejectPacket
	}
	h.metrics.connects.WithLabelValues("accepted").Inc()
	h.logger.Debug("connected", "client_id", c.clientID, "principal", c.principal.Username, "remote", conn.RemoteAddr().String(), "mqtt", pk.ProtocolVersion, "session_present", c.sessionPresent)
	if err := h.accept(c, pk); err != nil {
		return err
	}
	h.established(c)
	return nil
}

// incomplete returns what is wrong with a CONNECT that is well-formed; code 0: nothing.
func incomplete(pk *packets.Packet) packets.Code {
	switch {
	case pk.ProtocolVersion < 5 && pk.Connect.ClientIdentifier == "" && !pk.Connect.Clean:
		return packets.Err3ClientIdentifierNotValid // [MQTT-3.1.3-8]
	case pk.Connect.PasswordFlag && len(pk.Connect.Password) == 0:
		return packets.ErrProtocolViolationFlagNoPassword
	case pk.Connect.WillFlag && pk.Connect.WillTopic == "":
		return packets.ErrProtocolViolationWillFlagNoPayload
	}
	return packets.Code{}
}

// connect makes the connection of a client that has sent CONNECT, if it may have one.
func (h *Hook) connect(conn *broker.Conn, pk *packets.Packet, assigned bool) (*connection, error) {
	if _, leaving := h.server.Leaving(); leaving {
		return nil, errLeaving
	}
	p, err := h.authenticate(context.Background(), conn, pk)
	if err != nil {
		return nil, err
	}
	listener := conn.Listener()
	switch {
	case listener.NameIsClientID && p.Username == "":
		return nil, &chat.Error{Code: chat.Forbidden, Field: "username", Msg: "is needed here: it is the client id"}
	case listener.NameIsClientID:
		pk.Connect.ClientIdentifier, assigned = p.Username, false
	case (listener.NoEmptyClientID || pk.ProtocolVersion == 3) && assigned: // MQTT 3.1, 3.1
		return nil, &chat.Error{Code: chat.Invalid, Field: "client id", Msg: "must not be empty here"}
	}
	id := strings.Clone(pk.Connect.ClientIdentifier) // the rest of the packet is not kept with it
	p = p.OnDevice(id)
	c := &connection{
		Conn: conn, principal: p, clientID: id, assigned: assigned, sessionHash: chat.SessionHash(p.UserID, id), refusals: rate.Sometimes{Interval: time.Minute},
	}
	c.requestedExpiry, c.expiry = h.sessionExpiry(pk)
	if err := h.readWill(c, pk); err != nil {
		return nil, err
	}
	c.intake = broker.NewIntake(conn, func(p *broker.Publish, told bool) { h.refused(c, p, told) })
	if p.HasAccount() {
		conn.PaceAs(p.UserID)
	}
	conn.Accepted(pk, c, func() { h.becameWritable(c) })
	if err := h.takeSession(c, pk); err != nil {
		conn.Rejected()
		return nil, err
	}
	return c, nil
}

// takeSession takes the session of the connection's device, when there is a slot: first
// come, first served, for as long as clients wait for a CONNACK.
func (h *Hook) takeSession(c *connection, pk *packets.Packet) error {
	wait, waited := chat.WithDeadline(context.Background(), connectWait, "hooks.connect")
	defer waited()
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-wait.Done():
		return &chat.Error{Code: chat.Unavailable, Op: "hooks.connect", Msg: "too many are connecting; try again", Err: context.Cause(wait)}
	}
	ctx, cancel := chat.WithDeadline(context.Background(), authTimeout, "hooks.takeSession")
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
func (h *Hook) authenticate(ctx context.Context, conn *broker.Conn, pk *packets.Packet) (chat.Principal, error) {
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
	return h.verifyPassword(ctx, conn, auth, username, password)
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
func (h *Hook) verifyPassword(ctx context.Context, conn *broker.Conn, auth chat.Authenticator, username, password string) (chat.Principal, error) {
	if h.o.Logins == nil {
		return auth.VerifyPassword(ctx, username, password)
	}
	remote, _ := netip.ParseAddrPort(conn.RemoteAddr().String()) // what has no address shares one limit with its kind
	decide, err := h.o.Logins.Reserve(ctx, remote.Addr())        // before the hash: guesses must not fill the queue for it
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

// accept answers the CONNECT of a client that may connect.
func (h *Hook) accept(c *connection, pk *packets.Packet) error {
	ack := packets.Packet{SessionPresent: c.sessionPresent && c.Version() > 3} // MQTT 3.1 has no such flag
	if c.Version() < 5 {
		return c.WriteConnack(pk, &ack)
	}
	limits := h.server.Limits()
	ack.Properties = packets.Properties{
		ReceiveMaximum: receiveMaximum(limits), MaximumPacketSize: uint32(limits.MaxPacket), TopicAliasMaximum: maxAliases,
	}
	if most := int(pk.Properties.MaximumPacketSize); most == 0 || most >= maxConnack+len(c.clientID) { // [MQTT-3.2.2-20]
		ack.Properties.User = []packets.UserProperty{{Key: "epoch", Val: string(h.o.Epoch)}}
	}
	if c.requestedExpiry != c.expiry {
		ack.Properties.SessionExpiryInterval, ack.Properties.SessionExpiryIntervalFlag = uint32(c.expiry/time.Second), true // [MQTT-3.2.2.3.2]
	}
	if c.assigned {
		ack.Properties.AssignedClientID = c.clientID // [MQTT-3.1.3-7]
	}
	return c.WriteConnack(pk, &ack)
}

// refuse answers a CONNECT with why it is refused. Where MQTT 3.1.1 has no code for that, the
// connection is closed without CONNACK (MQTT 3.1.1, 3.1.4).
func (h *Hook) refuse(conn *broker.Conn, pk *packets.Packet, code packets.Code) {
	ack := packets.Packet{ReasonCode: code.Code}
	switch {
	case pk.ProtocolVersion == 5:
		ack.Properties = packets.Properties{ReceiveMaximum: receiveMaximum(h.server.Limits()), ReasonString: code.Reason}
		if code.Code == packets.ErrUseAnotherServer.Code {
			ack.Properties.ServerReference, _ = h.server.Leaving()
		}
	case code.Code > packets.Err3NotAuthorized.Code:
		conn.DisconnectCode(code.Code, "")
		return
	}
	_ = conn.WriteConnack(pk, &ack)
}

func receiveMaximum(l broker.Limits) uint16 { return uint16(min(l.ReceiveMaximum, 65535)) }

// established is called when CONNACK is out: publications may follow.
func (h *Hook) established(c *connection) {
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
