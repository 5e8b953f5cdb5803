package app_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/paho"
	"github.com/gorilla/websocket"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/programtest"
)

// secure starts a server with listeners on TLS beside the usual ones.
func secure(t *testing.T, ca *apptest.CA, change func(*app.Options)) *apptest.App {
	t.Helper()
	cert, key := ca.Server(t, "first")
	return apptest.Start(t, func(o *app.Options) {
		o.Listeners = []app.Listener{{Address: "127.0.0.1:0", TLS: &broker.TLSFiles{CertFile: cert, KeyFile: key}}}
		if change != nil {
			change(o)
		}
	})
}

// host returns the address of a listener without its scheme.
func host(t *testing.T, a *apptest.App, n int) string {
	t.Helper()
	_, addr, ok := strings.Cut(a.Addrs()[n], "://")
	if !ok {
		t.Fatalf("the listeners are %q", a.Addrs())
	}
	return addr
}

func dialTLS(t *testing.T, addr string, c *tls.Config) *brokertest.Client {
	t.Helper()
	conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	return brokertest.New(t, conn)
}

// Over TLS everything is as without it: messages of any size both ways, the reason of
// a refusal can be read, and the connection ends as TLS wants it.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	r := newRig(t, secure(t, ca, nil))
	addr := host(t, r.App, 0)
	for _, v := range versions {
		c := dialTLS(t, addr, ca.Config())
		c.MustConnect(r.eve.As(brokertest.Connect{ClientID: "safe", Version: v}))
		c.AutoAck = true
		c.MustSubscribe(1, "conv/#")
		for _, text := range []string{"short", strings.Repeat("long ", 12<<10)} {
			c.Publish(1, r.conv.Topic("messages"), text)
			r.seq++
			if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != text {
				t.Errorf("nan received %.40q, want %.40q", e.Content, text)
			}
			if e := apptest.EventOf(t, c.Expect(packets.Publish)); e.Content != text {
				t.Errorf("eve received %.40q, want %.40q", e.Content, text)
			}
		}
		c.SendBytes([]byte{packets.Publish << 4, 0xff, 0xff, 0xff, 0x7f}) // 256 MiB
		c.ExpectDisconnect(packets.ErrPacketTooLarge.Code)
	}
	c := dialTLS(t, addr, ca.Config())
	if pk := c.Connect(brokertest.Connect{ClientID: "x", Username: "nobody", Password: "wrong"}); pk.ReasonCode != packets.ErrBadUsernameOrPassword.Code {
		t.Errorf("a wrong password is answered %s", brokertest.Describe(pk))
	}
	c.ExpectClosed()
	r.undisturbed(t)
}

// Who reads slowly over TLS is served from the log, and gets all of it: a record is
// never cut.
func TestTLSCatchUp(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	r := newRig(t, secure(t, ca, func(o *app.Options) { o.Limits.HighWater = 32 << 10 }))
	c := dialTLS(t, host(t, r.App, 0), ca.Config())
	c.MustConnect(r.eve.As(brokertest.Connect{ClientID: "slow", ReceiveMaximum: 400}))
	c.MustSubscribe(1, "conv/#")
	text := strings.Repeat("x", 30<<10)
	const n = 200 // 6 MB, of which the kernel holds some
	for range n {
		r.near.Send(r.conv, text)
		r.seq++
		r.near.ExpectEvent(r.conv, r.seq)
	}
	c.AutoAck = true
	for seq := r.seq - n + 1; seq <= r.seq; seq++ {
		if e := apptest.EventOf(t, c.Await(packets.Publish)); e.Seq != seq || e.Content != text {
			t.Fatalf("got event %d with %d bytes, want %d", e.Seq, len(e.Content), seq)
		}
	}
	r.undisturbed(t)
}

// Who does not read at all, over TLS or WebSocket over TLS, does not hold up the end of
// the server, which each step of has 5 s for; apptest looks at that.
func TestTLSStuck(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	cert, key := ca.Server(t, "server")
	files := &broker.TLSFiles{CertFile: cert, KeyFile: key}
	a := apptest.Start(t, func(o *app.Options) {
		o.Listeners = []app.Listener{{Address: "127.0.0.1:0", TLS: files}, {Address: "127.0.0.1:0", TLS: files, WebSocket: true}}
		o.Limits.HighWater, o.Limits.MaxBuffer = 8<<20, 16<<20
	})
	r := newRig(t, a)
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: ca.Config(), HandshakeTimeout: brokertest.Patience}
	ws, resp, err := d.Dial("wss://"+host(t, a, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for i, c := range []*brokertest.Client{dialTLS(t, host(t, a, 0), ca.Config()), brokertest.New(t, brokertest.WebSocketStream(ws))} {
		c.MustConnect(r.eve.As(brokertest.Connect{ClientID: "stuck" + strconv.Itoa(i), ReceiveMaximum: 500}))
		c.MustSubscribe(1, "conv/#")
	}
	text := strings.Repeat("x", 60<<10)
	for range 100 { // 6 MB, more than the kernel's buffers take
		r.near.Send(r.conv, text)
		r.seq++
		r.near.ExpectEvent(r.conv, r.seq)
	}
	start := time.Now()
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	t.Logf("stopped in %s", time.Since(start))
}

// What is no TLS, or an old one, or silent, is turned away; the limits before CONNECT
// hold for the handshake.
func TestTLSHandshake(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	a := secure(t, ca, func(o *app.Options) { o.Limits.ConnectTimeout = time.Second })
	addr := host(t, a, 0)
	hello := func() []byte { // as a client begins
		near, far := net.Pipe()
		defer far.Close()
		go func() { _ = tls.Client(near, ca.Config()).Handshake(); _ = near.Close() }()
		b := make([]byte, 64)
		n, _ := io.ReadFull(far, b)
		return b[:n]
	}()
	for name, say := range map[string][]byte{"nothing": nil, "CONNECT without TLS": {0x10, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 60, 0, 0}, "a part of a hello": hello} {
		c := brokertest.Dial(t, addr)
		if len(say) > 0 {
			c.SendBytes(say)
		}
		_ = c.Conn().SetReadDeadline(time.Now().Add(brokertest.Patience))
		if b, err := io.ReadAll(c.Conn()); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: still open after %s", name, brokertest.Patience)
		} else if bytes.HasPrefix(b, []byte{0x20}) {
			t.Errorf("%s: answered by CONNACK", name)
		}
	}
	old := ca.Config()
	old.MaxVersion, old.MinVersion = tls.VersionTLS11, tls.VersionTLS10
	if conn, err := tls.Dial("tcp", addr, old); err == nil {
		conn.Close()
		t.Error("TLS 1.1 was agreed on")
	}
	c := dialTLS(t, addr, ca.Config()) // and the server takes others
	c.Close()
}

// A certificate that is renewed is shown from the next connection on, and one that is
// broken changes nothing.
func TestCertificateRenewed(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	cert, key := ca.Server(t, "first")
	a := apptest.Start(t, func(o *app.Options) {
		o.Listeners = []app.Listener{{Address: "127.0.0.1:0", TLS: &broker.TLSFiles{CertFile: cert, KeyFile: key}}}
	})
	shown := func() string {
		c := dialTLS(t, host(t, a, 0), ca.Config())
		defer c.Close()
		return c.Conn().(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	kept := dialTLS(t, host(t, a, 0), ca.Config())
	kept.MustConnect(a.User(t, "ann").As(brokertest.Connect{ClientID: "kept"}))
	if got := shown(); got != "first" {
		t.Fatalf("the certificate is %q", got)
	}
	move := func(from, to string) {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	cert2, key2 := ca.Server(t, "second")
	move(cert2, cert)
	if got := shown(); got != "first" { // it does not belong to the key
		t.Errorf("with half of the new files the certificate is %q", got)
	}
	move(key2, key)
	if got := shown(); got != "second" {
		t.Errorf("with the new files the certificate is %q", got)
	}
	if err := os.WriteFile(cert, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := shown(); got != "second" {
		t.Errorf("with a broken file the certificate is %q", got)
	}
	kept.Ping()
}

// Who has to show a certificate and has none of the right authority does not get in.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	ca, foreign := apptest.NewCA(t), apptest.NewCA(t)
	cert, key := ca.Server(t, "server")
	a := apptest.Start(t, func(o *app.Options) {
		o.Listeners = []app.Listener{{Address: "127.0.0.1:0", TLS: &broker.TLSFiles{CertFile: cert, KeyFile: key, ClientCAFile: ca.File, RequireClient: true}}}
	})
	ann := a.User(t, "ann")
	connect := func(from *apptest.CA) error {
		c := ca.Config()
		if from != nil {
			cert, key := from.Client(t, "lamp")
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil } // whoever is asked for
		}
		conn, err := tls.Dial("tcp", host(t, a, 0), c)
		if err != nil {
			return err
		}
		client := brokertest.New(t, conn)
		if err := client.Write(client.Encode(ann.As(brokertest.Connect{ClientID: "x"}).Packet())); err != nil {
			return err
		}
		pk, err := client.Recv(brokertest.Patience)
		if err == nil && pk.ReasonCode != 0 {
			t.Errorf("CONNACK: %s", brokertest.Describe(pk))
		}
		return err
	}
	if err := connect(ca); err != nil {
		t.Errorf("with the right certificate: %v", err)
	}
	for name, from := range map[string]*apptest.CA{"none": nil, "a foreign one": foreign} {
		if err := connect(from); err == nil {
			t.Errorf("with %s the client is let in", name)
		}
	}
}

// MQTT over WebSocket over TLS, at whatever path, for whoever comes from a page that
// may.
func TestSecureWebSocket(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	cert, key := ca.Server(t, "server")
	a := apptest.Start(t, func(o *app.Options) {
		o.Listeners = []app.Listener{{Address: "127.0.0.1:0", WebSocket: true, TLS: &broker.TLSFiles{CertFile: cert, KeyFile: key}, AllowedOrigins: []string{"https://ok.example.com"}}}
	})
	r := newRig(t, a)
	d := websocket.Dialer{Subprotocols: []string{"mqtt"}, TLSClientConfig: ca.Config(), HandshakeTimeout: brokertest.Patience}
	url := "wss://" + host(t, a, 0) + "/any/path"
	if ws, resp, err := d.Dial(url, http.Header{"Origin": {"https://evil.example.com"}}); err == nil {
		ws.Close()
		t.Error("a foreign page may connect")
	} else if resp != nil {
		resp.Body.Close()
	}
	ws, resp, err := d.Dial(url, http.Header{"Origin": {"https://ok.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	c := brokertest.New(t, brokertest.WebSocketStream(ws))
	c.MustConnect(r.eve.As(brokertest.Connect{ClientID: "web"}))
	c.Publish(1, r.conv.Topic("messages"), "from a page")
	r.seq++
	if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "from a page" {
		t.Errorf("nan received %+v", e)
	}
	c.Disconnect()
}

// A listener's limit on connections is its own, and a place that is left is free.
func TestListenerLimit(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, func(o *app.Options) {
		o.Listeners = []app.Listener{{Address: "127.0.0.1:0", MaxConnections: 2}, {Network: "unix", Address: t.TempDir() + "/s"}}
	})
	ann := a.User(t, "ann")
	one := brokertest.Open(t, host(t, a, 0), ann.As(brokertest.Connect{ClientID: "1"}))
	two := brokertest.Open(t, host(t, a, 0), ann.As(brokertest.Connect{ClientID: "2"}))
	third := brokertest.Dial(t, host(t, a, 0))
	third.ExpectClosed()
	a.Device(t, ann, brokertest.Connect{ClientID: "elsewhere"}).Ping()
	conn, err := net.Dial("unix", host(t, a, 1))
	if err != nil {
		t.Fatal(err)
	}
	local := brokertest.New(t, conn)
	local.MustConnect(ann.As(brokertest.Connect{ClientID: "socket"}))
	local.Ping()
	one.Disconnect()
	two.Ping()
	for deadline := time.Now().Add(brokertest.Patience); ; { // the place is free when the server has closed, a little after the client hears of it
		conn, err := net.Dial("tcp", host(t, a, 0))
		if err != nil {
			t.Fatal(err)
		}
		again := brokertest.New(t, conn)
		if again.Write(again.Encode(ann.As(brokertest.Connect{ClientID: "3"}).Packet())) == nil {
			if pk, err := again.Recv(brokertest.Patience); err == nil && pk.FixedHeader.Type == packets.Connack {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the place of a connection that has ended is not free")
		}
	}
}

// The clients that people have: mosquitto's, and paho.
func TestTLSClients(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	r := newRig(t, secure(t, ca, nil))
	hostname, port, err := net.SplitHostPort(host(t, r.App, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Run("mosquitto", func(t *testing.T) {
		program := programtest.Path(t, "mosquitto_pub")
		for _, version := range []string{"311", "5"} {
			ctx, cancel := context.WithTimeout(t.Context(), brokertest.Patience)
			defer cancel()
			flags := []string{"-h", hostname, "-p", port, "--cafile", ca.File, "-V", version, "-q", "2", "-u", "eve", "-P", r.eve.Token, "-t", r.conv.Topic("messages"), "-m", "over TLS with " + version}
			if out, err := exec.CommandContext(ctx, program, flags...).CombinedOutput(); err != nil {
				t.Fatalf("mosquitto_pub: %v: %s", err, out)
			}
			r.seq++
			if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "over TLS with "+version {
				t.Errorf("nan received %+v", e)
			}
		}
	})
	t.Run("paho", func(t *testing.T) {
		conn, err := tls.Dial("tcp", net.JoinHostPort(hostname, port), ca.Config())
		if err != nil {
			t.Fatal(err)
		}
		c := paho.NewClient(paho.ClientConfig{Conn: conn})
		ctx, cancel := context.WithTimeout(t.Context(), brokertest.Patience)
		defer cancel()
		if _, err := c.Connect(ctx, &paho.Connect{ClientID: "paho", CleanStart: true, KeepAlive: 30, UsernameFlag: true, Username: "eve", PasswordFlag: true, Password: []byte(r.eve.Token)}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Publish(ctx, &paho.Publish{Topic: r.conv.Topic("messages"), QoS: 1, Payload: []byte("from paho")}); err != nil {
			t.Fatal(err)
		}
		r.seq++
		if e := r.near.ExpectEvent(r.conv, r.seq); e.Content != "from paho" {
			t.Errorf("nan received %+v", e)
		}
		if err := c.Disconnect(&paho.Disconnect{}); err != nil {
			t.Error(err)
		}
	})
}
