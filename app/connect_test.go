package app_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

// Every CONNECT that is refused is answered by CONNACK with the right code, and
// the connection is closed; what is no CONNECT at all is closed without a word.
func TestBadConnect(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	tokens := newForger(t, a)
	const closed = 0xff // without CONNACK
	type connect = brokertest.Connect
	cases := []struct {
		name   string
		o      connect
		v5, v4 byte
		only   byte // a version; 0: both
	}{
		{name: "nothing", o: connect{}, v5: 0x86, v4: 5},
		{name: "user name without password", o: connect{Username: tokens.user.Username}, v5: 0x86, v4: 5},
		{name: "password without user name", o: connect{Password: apptest.Password}, v5: 0x86, v4: 5},
		{name: "wrong password", o: connect{Username: tokens.user.Username, Password: apptest.Password + "!"}, v5: 0x86, v4: 5},
		{name: "short password", o: connect{Username: tokens.user.Username, Password: "a"}, v5: 0x86, v4: 5},
		{name: "long password", o: connect{Username: tokens.user.Username, Password: strings.Repeat("a", 50_000)}, v5: 0x86, v4: 5},
		{name: "NUL in the password", o: connect{Username: tokens.user.Username, Password: apptest.Password + "\x00"}, v5: 0x86, v4: 5},
		{name: "unknown user", o: connect{Username: "nobody", Password: apptest.Password}, v5: 0x86, v4: 5},
		{name: "no user name could be like that", o: connect{Username: "' OR 1=1 --", Password: apptest.Password}, v5: 0x86, v4: 5},
		{name: "disabled user", o: connect{Username: tokens.disabled.Username, Password: apptest.Password}, v5: 0x86, v4: 5},
		{name: "token of a disabled user", o: connect{Password: tokens.disabled.Token}, v5: 0x86, v4: 5},
		{name: "token of a revoked login", o: connect{Password: tokens.revoked}, v5: 0x86, v4: 5},
		{name: "token of another key", o: connect{Password: tokens.otherKey}, v5: 0x86, v4: 5},
		{name: "token of another key under our kid", o: connect{Password: tokens.otherKeyOurKID}, v5: 0x86, v4: 5},
		{name: "expired token", o: connect{Password: tokens.expired}, v5: 0x86, v4: 5},
		{name: "token for another audience", o: connect{Password: tokens.audience}, v5: 0x86, v4: 5},
		{name: "token of another issuer", o: connect{Password: tokens.issuer}, v5: 0x86, v4: 5},
		{name: "token changed", o: connect{Password: tokens.changed}, v5: 0x86, v4: 5},
		{name: "token without signature", o: connect{Password: tokens.unsigned}, v5: 0x86, v4: 5},
		{name: "alg none", o: connect{Password: tokens.algNone}, v5: 0x86, v4: 5},
		{name: "alg HS256 with the public key", o: connect{Password: tokens.algHMAC}, v5: 0x86, v4: 5},
		{name: "half a token", o: connect{Password: tokens.user.Token[:40]}, v5: 0x86, v4: 5},
		{name: "two dots", o: connect{Password: "eyJ.."}, v5: 0x86, v4: 5},
		{name: "long token", o: connect{Password: "eyJ" + strings.Repeat("a", 40_000) + ".."}, v5: 0x86, v4: 5},

		{name: "client id over 256 bytes", o: connect{ClientID: strings.Repeat("a", 257), Password: tokens.user.Token}, v5: 0x85, v4: 2},
		{name: "client id over the size of CONNECT", o: connect{ClientID: strings.Repeat("a", 65_535), Password: tokens.user.Token}, v5: closed, v4: closed},
		{name: "line feed in the client id", o: connect{ClientID: "a\nb", Password: tokens.user.Token}, v5: 0x85, v4: 2},
		{name: "C1 control in the client id", o: connect{ClientID: "a\u0085b", Password: tokens.user.Token}, v5: 0x85, v4: 2},
		{name: "NUL in the client id", o: connect{ClientID: "a\x00b", Password: tokens.user.Token}, v5: 0x81, v4: closed},
		{name: "client id not UTF-8", o: connect{ClientID: "a\xffb", Password: tokens.user.Token}, v5: 0x81, v4: closed},
		{name: "NUL in the user name", o: connect{ClientID: "a", Username: "a\x00b", Password: tokens.user.Token}, v5: 0x81, v4: closed},
		{name: "user name not UTF-8", o: connect{ClientID: "a", Username: "a\xed\xa0\x80b", Password: tokens.user.Token}, v5: 0x81, v4: closed},
		{name: "session without a client id", o: connect{Persistent: true, Password: tokens.user.Token}, v4: 2, only: 4},

		{name: "authentication method", o: connect{Password: tokens.user.Token, AuthMethod: "SCRAM-SHA-256"}, v5: 0x8c, only: 5},
		{name: "MQTT 3.0", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) {
			pk.ProtocolVersion, pk.Connect.ProtocolName = 2, []byte("MQIsdp")
		}}, v4: 1, only: 4},
		{name: "version 3 of MQTT", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.ProtocolVersion = 3 }}, v4: 1, only: 4},
		{name: "version 6", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.ProtocolVersion = 6 }}, v5: 0x84, only: 5},
		{name: "version 5 with the bridge bit", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.ProtocolVersion = 0x85 }}, v5: 0x84, only: 5},
		{name: "another protocol", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.Connect.ProtocolName = []byte("AMQP") }}, v5: 0x84, v4: closed},
		{name: "protocol in small letters", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.Connect.ProtocolName = []byte("mqtt") }}, v5: 0x84, v4: closed},
		{name: "a longer protocol", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.Connect.ProtocolName = []byte("MQTT-SN") }}, v5: 0x84, v4: closed},
		{name: "no protocol", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.Connect.ProtocolName = nil }}, v5: 0x84, v4: closed},
		{name: "will at QoS 3", o: connect{ClientID: "a", Password: tokens.user.Token, WillTopic: "a", WillPayload: "a", WillQoS: 3}, v5: 0x81, v4: closed},
		{name: "QoS of no will", o: connect{ClientID: "a", Password: tokens.user.Token, WillQoS: 1}, v5: 0x81, v4: closed},
		{name: "RETAIN of no will", o: connect{ClientID: "a", Password: tokens.user.Token, Change: func(pk *packets.Packet) { pk.Connect.WillRetain = true }}, v5: 0x81, v4: closed},
		{name: "NUL in the will's topic", o: connect{ClientID: "a", Password: tokens.user.Token, WillTopic: "a\x00", WillPayload: "a"}, v5: 0x81, v4: closed},
	}
	for _, c := range cases {
		for _, v := range versions {
			if c.only != 0 && c.only != v {
				continue
			}
			t.Run(c.name+"/"+versionName(v), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				d := a.Dial(t)
				o := c.o
				o.Version = v
				pk := o.Packet()
				d.Version = v
				_ = d.Write(d.Encode(pk))
				if want := map[byte]byte{5: c.v5, 4: c.v4}[v]; want != closed {
					if ack := d.Expect(packets.Connack); ack.ReasonCode != want || ack.SessionPresent {
						t.Errorf("got %s, want 0x%02x", brokertest.Describe(ack), want)
					}
				}
				d.ExpectClosed()
				r.undisturbed(t)
			})
		}
	}
}

// Bytes that are no CONNECT are not answered. One that is broken is, as soon as it is
// clear that MQTT 5 is spoken, by CONNACK with the right code; in 3.1.1 it is not.
func TestNoConnect(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	valid := string(brokertestEncode(t, a, brokertest.Connect{ClientID: "a", Password: "eyJ.."}))
	const closed = 0 // without a word
	connect := func(flags, rest string) string { return packetText(0x10, str("MQTT")+"\x05"+flags+"\x00\x3c"+rest) }
	withProps := func(p string) string { return connect("\x42", string(rune(len(p)))+p+str("a")+str("eyJ..")) }
	cases := []struct {
		name, bytes string
		code        byte
	}{
		{"PINGREQ", "\xc0\x00", closed},
		{"PUBLISH", packetText(0x30, str("a")+"\x00a"), closed},
		{"SUBSCRIBE", "\x82\x08\x00\x01\x00\x00\x01a\x00\x00", closed},
		{"DISCONNECT", "\xe0\x00", closed},
		{"HTTP", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", closed},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", closed},
		{"type 0", "\x00\x00", closed},
		{"length of five bytes", "\x10\xff\xff\xff\xff\x7f", closed},
		{"length of 256 MiB", "\x10\xff\xff\xff\x7f", closed},
		{"reserved flags", "\x1f" + valid[1:], closed},
		{"empty", "\x10\x00", closed},
		{"protocol name only", packetText(0x10, str("MQTT")), closed},
		{"over the limit", connect("\x42", "\x00"+str("a")+str(strings.Repeat("p", 65535))), closed},
		{"half a protocol name", packetText(0x10, "\x00\x04MQ"), closed},

		{"no flags", packetText(0x10, str("MQTT")+"\x05"), 0x81},
		{"no keepalive", packetText(0x10, str("MQTT")+"\x05\x02\x00"), 0x81},
		{"no properties", connect("\x02", ""), 0x81},
		{"no client id", connect("\x02", "\x00"), 0x81},
		{"user name missing", connect("\x82", "\x00"+str("a")), 0x81},
		{"password missing", connect("\x42", "\x00"+str("a")), 0x81},
		{"properties without end", connect("\x02", "\x7f\x21"), 0x81},
		{"length of properties without end", connect("\x02", "\xff\xff\xff\xff\x01"), 0x81},
		{"will missing", connect("\x06", "\x00"+str("a")), 0x81},
		{"will's payload missing", connect("\x06", "\x00"+str("a")+"\x00"+str("t")), 0x81},
		{"client id over the end", connect("\x02", "\x00\xff\xffa"), 0x81},
		{"reserved bit of CONNECT", connect("\x43", "\x00"+str("a")+str("eyJ..")), 0x81},
		{"user property not UTF-8", withProps("\x26\x00\x01\xff\x00\x01a"), 0x81},
		{"property of PUBLISH", withProps("\x23\x00\x01"), 0x81},
		{"property of no packet", withProps("\x7f\x00"), 0x81},
		{"property over the end of the properties", connect("\x42", "\x02\x21\x00"+str("a")+str("eyJ..")), 0x81},
		{"will property of PUBLISH", connect("\x06", "\x00"+str("a")+"\x03\x23\x00\x01"+str("t")+str("p")), 0x81},
		{"receive maximum twice", withProps("\x21\x00\x01\x21\x00\x01"), 0x82},
		{"session expiry twice", withProps("\x11\x00\x00\x00\x01\x11\x00\x00\x00\x01"), 0x82},
		{"will delay twice", connect("\x06", "\x00"+str("a")+"\x0a\x18\x00\x00\x00\x01\x18\x00\x00\x00\x01"+str("t")+str("p")), 0x82},
		{"receive maximum 0", withProps("\x21\x00\x00"), 0x82},
		{"maximum packet size 0", withProps("\x27\x00\x00\x00\x00"), 0x82},
		{"request problem information 2", withProps("\x17\x02"), 0x82},
		{"request response information 2", withProps("\x19\x02"), 0x82},
		{"authentication data without a method", withProps("\x16\x00\x01a"), 0x82},
		{"will's payload format 2", connect("\x06", "\x00"+str("a")+"\x02\x01\x02"+str("t")+str("p")), 0x82},
		{"something after password", connect("\x42", "\x00"+str("a")+str("eyJ..")+"more"), 0x81},

		{"3.1.1: no client id", packetText(0x10, str("MQTT")+"\x04\x02\x00\x3c"), closed},
		{"3.1.1: reserved bit of CONNECT", packetText(0x10, str("MQTT")+"\x04\x03\x00\x3c"+str("a")), closed},
		{"3.1.1: something after client id", packetText(0x10, str("MQTT")+"\x04\x02\x00\x3c"+str("a")+"more"), closed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			d := a.Dial(t)
			_ = d.Write([]byte(c.bytes))
			if c.code != closed {
				if ack := d.Expect(packets.Connack); ack.ReasonCode != c.code || ack.SessionPresent || ack.Properties.ReasonString == "" {
					t.Errorf("got %s, want 0x%02x with a reason", brokertest.Describe(ack), c.code)
				}
			}
			d.ExpectClosed()
			r.undisturbed(t)
		})
	}
}

func packetText(first byte, body string) string { return string(packet(first, body)) }

func brokertestEncode(t *testing.T, a *apptest.App, o brokertest.Connect) []byte {
	return a.Dial(t).Encode(o.Packet())
}

// forger makes tokens that must not be good.
type forger struct {
	user, disabled                               apptest.User
	revoked, otherKey, otherKeyOurKID            string
	expired, audience, issuer, changed, unsigned string
	algNone, algHMAC                             string
}

func newForger(t *testing.T, a *apptest.App) *forger {
	t.Helper()
	f := &forger{user: a.User(t, "user"), disabled: a.User(t, "disabled")}
	ctx := t.Context()

	if _, err := a.Identity.SetDisabled(ctx, f.disabled.Username, true); err != nil {
		t.Fatal(err)
	}
	login, err := a.Identity.LogIn(ctx, identity.LoginRequest{Login: f.user.Username, Password: apptest.Password})
	if err != nil {
		t.Fatal(err)
	}
	f.revoked = login.AccessToken
	u := apptest.User{Token: login.AccessToken}
	if r := a.REST(t, u, http.MethodDelete, "/api/sessions/"+login.Login.ID.String(), nil); r.Status != http.StatusNoContent {
		t.Fatal(r)
	}

	issue := func(change func(*identity.Options)) string {
		o := identity.Options{Store: a.DB}
		change(&o)
		s, err := identity.New(o)
		if err != nil {
			t.Fatal(err)
		}
		token, _, err := s.IssueToken(ctx, f.user.Username, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f.otherKey = issue(func(o *identity.Options) {
		o.SigningPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	})
	f.expired = issue(func(o *identity.Options) { o.Clock = clockAt(-2 * time.Hour) })
	f.audience = issue(func(o *identity.Options) { o.Audience = "others" })
	f.issuer = issue(func(o *identity.Options) { o.Issuer = "others" })

	header, claims, sig := split3(t, f.user.Token)
	_, otherClaims, _ := split3(t, f.otherKey)
	f.otherKeyOurKID = header + "." + otherClaims + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(header+"."+otherClaims)))
	f.changed = header + "." + otherClaims + "." + sig
	f.unsigned = header + "." + claims + "."
	f.algNone = b64(`{"alg":"none","typ":"at+jwt"}`) + "." + claims + "."
	var jwks struct{ Keys []struct{ Kid, X string } }
	a.REST(t, apptest.User{}, http.MethodGet, "/.well-known/jwks.json", nil).Into(&jwks)
	if len(jwks.Keys) == 0 {
		t.Fatal("no key is published")
	}
	public, err := base64.RawURLEncoding.DecodeString(jwks.Keys[0].X)
	if err != nil {
		t.Fatal(err)
	}
	h, _ := json.Marshal(map[string]string{"alg": "HS256", "typ": "at+jwt", "kid": jwks.Keys[0].Kid})
	mac := hmac.New(sha256.New, public)
	mac.Write([]byte(b64(string(h)) + "." + claims))
	f.algHMAC = b64(string(h)) + "." + claims + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	return f
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func split3(t *testing.T, token string) (header, claims, sig string) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	return parts[0], parts[1], parts[2]
}

// clockAt is the time, and some.
type clockAt time.Duration

func (c clockAt) Now() time.Time { return time.Now().Add(time.Duration(c)) }

// Whoever has a token or a password may connect; the answer says what is offered.
func TestConnect(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u := a.User(t, "u")
	login, err := a.Identity.LogIn(t.Context(), identity.LoginRequest{Login: u.Username, Password: apptest.Password})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range versions {
		for name, o := range map[string]brokertest.Connect{
			"token":                     {ClientID: "a", Password: u.Token},
			"token of a login":          {ClientID: "a", Password: login.AccessToken},
			"token and user name":       {ClientID: "a", Username: "whoever", Password: u.Token},
			"password":                  {ClientID: "a", Username: u.Username, Password: apptest.Password},
			"user name in capitals":     {ClientID: "a", Username: strings.ToUpper(u.Username), Password: apptest.Password},
			"no client id":              {Password: u.Token},
			"256 bytes of client id":    {ClientID: strings.Repeat("é", 128), Password: u.Token},
			"will on one's own topic":   {ClientID: "a", Password: u.Token, WillTopic: u.Topic("presence"), WillPayload: `{"status":"offline"}`},
			"client id with odd things": {ClientID: "a/#+$ 👍", Password: u.Token},
		} {
			c := a.Dial(t)
			o.Version = v
			ack := c.MustConnect(o)
			if p := ack.Properties; v == 5 && (p.MaximumPacketSize != 256<<10 || p.ReceiveMaximum != 256 || p.TopicAliasMaximum != 10 ||
				p.SharedSubAvailableFlag || p.RetainAvailableFlag || (p.AssignedClientID != "") != (o.ClientID == "")) {
				t.Errorf("%s: CONNACK says %+v", name, p)
			}
			c.Ping()
			c.Disconnect()
		}
	}
}

// A login that is revoked, and a user who is disabled, lose their open
// connections within a second; those of others, and of the same user by another
// login, stay.
func TestRevokeCutsConnection(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, how := range []string{"over REST", "on another node", "by disabling the user"} {
			t.Run(how+"/"+versionName(v), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, a)
				login, err := a.Identity.LogIn(t.Context(), identity.LoginRequest{Login: r.eve.Username, Password: apptest.Password})
				if err != nil {
					t.Fatal(err)
				}
				u := r.eve
				u.Token = login.AccessToken
				d := a.Device(t, u, brokertest.Connect{ClientID: "a", Version: v})
				other := a.Device(t, r.eve, brokertest.Connect{ClientID: "b", Version: v})
				switch how {
				case "over REST":
					if resp := a.REST(t, u, http.MethodDelete, "/api/sessions/"+login.Login.ID.String(), nil); resp.Status != http.StatusNoContent {
						t.Fatal(resp)
					}
				case "on another node":
					err = a.Identity.RevokeLogin(t.Context(), r.eve.ID, login.Login.ID)
				default:
					_, err = a.Identity.SetDisabled(t.Context(), r.eve.Username, true)
				}
				if err != nil {
					t.Fatal(err)
				}
				d.ExpectDisconnect(packets.ErrNotAuthorized.Code)
				if how == "by disabling the user" {
					other.ExpectDisconnect(packets.ErrNotAuthorized.Code)
				} else {
					other.Ping()
				}
				r.undisturbed(t)
			})
		}
	}
}

// Two users may call their devices the same, and do not notice.
func TestSameClientIDOfTwoUsers(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	alice, bob := a.User(t, "alice"), a.User(t, "bob")
	c := a.Direct(t, alice, bob)
	da := a.Device(t, alice, brokertest.Connect{ClientID: "phone"})
	db := a.Device(t, bob, brokertest.Connect{ClientID: "phone", Version: 4})
	da.MustSubscribe(1, "conv/#")
	db.MustSubscribe(1, "conv/#")
	da.Send(c, "one")
	db.Send(c, "two")
	for _, d := range []*apptest.Device{da, db} {
		d.ExpectEvent(c, 2)
		d.ExpectEvent(c, 3)
		d.Ping()
	}
	db.Disconnect()
	da.Send(c, "three")
	da.ExpectEvent(c, 4)
	da.Ping()
}

// The newest connection of a device is the one that stays, and the older hears
// why it ends (0x8E).
func TestTakeOver(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	for _, v := range versions {
		first := a.Device(t, r.eve, brokertest.Connect{ClientID: "phone", Version: v})
		first.MustSubscribe(1, "conv/#")
		second := a.Device(t, r.eve, brokertest.Connect{ClientID: "phone", Version: 9 - v})
		first.ExpectDisconnect(packets.ErrSessionTakenOver.Code)
		second.MustSubscribe(1, "conv/#")
		r.undisturbed(t)
		second.ExpectEvent(r.conv, r.seq)
		second.Ping()
		second.Disconnect()
	}
}

// Of many connections of one device at once exactly one stays. All were accepted
// and heard of the end, or were turned away before they were accepted; none is
// told goodbye before it is welcomed [MQTT-3.14.0-1].
func TestTakeOverRace(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, a)
			const n = 60
			clients := make([]*brokertest.Client, n)
			for i := range clients {
				clients[i] = a.Dial(t)
				clients[i].Version = v
			}
			connect := clients[0].Encode(r.eve.As(brokertest.Connect{ClientID: "phone", Version: v}).Packet())
			first := make([]packets.Packet, n)
			errs := make([]error, n)
			var wg sync.WaitGroup
			for i, c := range clients {
				wg.Go(func() {
					if errs[i] = c.Write(connect); errs[i] == nil {
						first[i], errs[i] = c.Recv(brokertest.Patience)
					}
				})
			}
			wg.Wait()
			var alive []*brokertest.Client
			for i, c := range clients {
				switch {
				case errs[i] != nil:
					if !errors.Is(errs[i], io.EOF) {
						t.Error(errs[i])
					}
					continue
				case first[i].FixedHeader.Type != packets.Connack || first[i].ReasonCode != 0:
					t.Errorf("the first packet is %s", brokertest.Describe(first[i]))
					continue
				}
				_ = c.Write([]byte{packets.Pingreq << 4, 0})
				pk, err := c.Recv(brokertest.Patience)
				switch {
				case err == nil && pk.FixedHeader.Type == packets.Pingresp:
					alive = append(alive, c)
				case err == nil && v == 5 && pk.FixedHeader.Type == packets.Disconnect && pk.ReasonCode == packets.ErrSessionTakenOver.Code:
					c.ExpectClosed()
				case v == 4 && errors.Is(err, io.EOF):
				default:
					t.Errorf("got %s, %v", brokertest.Describe(pk), err)
				}
			}
			if len(alive) != 1 {
				t.Fatalf("%d connections live, want 1", len(alive))
			}
			d := &apptest.Device{Client: alive[0]}
			d.MustSubscribe(0, "conv/#")
			r.undisturbed(t)
			d.Expect(packets.Publish)
			d.Ping()
		})
	}
}

// A will is no way around who may write where: it is not published into a
// conversation of others, nor on a topic of somebody else's, when the line is cut.
func TestBadWill(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	r := newRig(t, a)
	others := a.Direct(t, r.nan, a.User(t, "third"))
	r.near.ExpectEvent(others, 1)
	for _, v := range versions {
		for _, topic := range []string{
			r.conv.Topic("reads"), others.Topic("messages"), "conv/" + chat.NewID().String() + "/messages",
			r.nan.Topic("presence"), r.nan.Topic("errors"), "conv/+/messages", "#", "$SYS/x", "hello", strings.Repeat("a/", 5_000),
		} {
			c := a.Dial(t)
			c.Version = v
			c.Send(r.eve.As(brokertest.Connect{ClientID: "w", Version: v, WillTopic: topic, WillPayload: "I am a will", WillQoS: 1}).Packet())
			if ack, err := c.Recv(brokertest.Patience); err == nil && ack.ReasonCode == 0 { // it may be accepted, as long as nothing comes of it
				c.Ping()
			}
			c.Close()
		}
	}
	_ = a.Stop(t.Context()) // all connections have ended, and their wills were looked at
	if seq := a.LastSeq(t, r.nan, r.conv); seq != 1 {
		t.Errorf("event %d has been stored", seq)
	}
	if seq := a.LastSeq(t, r.nan, others); seq != 1 {
		t.Errorf("event %d has been stored in a conversation of others", seq)
	}
	if d := r.near.Expect(packets.Disconnect); d.ReasonCode != packets.ErrServerShuttingDown.Code {
		t.Errorf("nan received %s", brokertest.Describe(d))
	}
}

// A user name and a token that are of two users contradict each other. A name that is nobody's
// says nothing, since some clients must send one.
func TestNameBesideToken(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	if r := a.REST(t, apptest.User{}, http.MethodPost, "/api/users", map[string]string{"username": "carl", "email": "carl@example.org", "password": apptest.Password}); r.Status != http.StatusCreated {
		t.Fatal(r)
	}
	for _, v := range versions {
		for name, want := range map[string]bool{
			"": true, ann.Username: true, strings.ToUpper(ann.Username): true, "token": true, "nobody at all": true, "nobody@example.org": true,
			bob.Username: false, strings.ToUpper(bob.Username): false, "carl@example.org": false, "Carl@Example.org": false,
		} {
			c := a.Dial(t)
			ack := c.Connect(brokertest.Connect{Version: v, ClientID: "a", Username: name, Password: ann.Token})
			switch refusal := map[byte]byte{4: 5, 5: 0x86}[v]; {
			case want && ack.ReasonCode != 0:
				t.Errorf("MQTT %d, %q: %s", v, name, brokertest.Describe(ack))
			case !want && ack.ReasonCode != refusal:
				t.Errorf("MQTT %d, %q: %s, want %#x", v, name, brokertest.Describe(ack), refusal)
			}
			c.Close()
		}
	}
}
