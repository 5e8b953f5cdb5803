package main_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// secretHash is that of "secret", made by mosquitto_passwd -H sha512-pbkdf2.
const secretHash = "$7$101$4H6Sz69oQZ2HyoTL$PtSM29f+EyO5dDNE6yvlxVq1jubIS0KXwPQcXRXCLTg6FrsGG2ivV61r+u4Sn1yYwGjsvuoroRHCTKFjbwRvxA=="

// conf is a folder of configuration files.
type conf struct{ dir string }

func newConf(t testing.TB) conf {
	t.Helper()
	dir, err := os.MkdirTemp("", "conf") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return conf{dir}
}

// write writes a file, in which DIR stands for the folder, and returns its path.
func (c conf) write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", c.dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (c conf) dial(t testing.TB, socket string) *brokertest.Client {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(c.dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	return brokertest.New(t, conn)
}

// awaitLog waits until the server's log holds the text.
func (s *server) awaitLog(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(s.Log(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log never said %q:\n%s", text, s.Log())
		}
	}
}

// A server in the place of a Mosquitto: the clients of its password file come in, and
// have no part in conversations; people do, by the same listener. SIGHUP takes back
// what a file does not say any more, and a broken file changes nothing.
func TestMosquittoConf(t *testing.T) {
	t.Parallel()
	c := newConf(t)
	file := c.write(t, "mosquitto.conf", "listener 0 DIR/s\npassword_file DIR/passwords\nacl_file DIR/acl\nmax_keepalive 60\nlistener 0 DIR/open\nmax_connections 1\n")
	passwords := "lamp:" + secretHash + "\ngauge:" + secretHash + "\nscreen:" + secretHash + "\n"
	c.write(t, "passwords", passwords)
	c.write(t, "acl", "user lamp\ntopic home/lamp/#\nuser screen\ntopic read home/#\ntopic read $SYS/broker/version\n")
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)}, "--mosquitto-conf="+file)
	for _, want := range []string{"  listener 0 " + c.dir, "max_keepalive 60", "ignored    a client's Keep Alive is accepted as it is", "password file, 3 users", "4 lines taken, 1 with a difference, 1 ignored"} {
		if !strings.Contains(s.Banner(), want) && !strings.Contains(strings.Join(strings.Fields(s.Banner()), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("the table lacks %q:\n%s", want, s.Banner())
		}
	}
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := "conv/" + s.direct(t, ann, bob)

	lamp := c.dial(t, "s")
	lamp.MustConnect(brokertest.Connect{ClientID: "l1", Username: "lamp", Password: "secret", Persistent: true, SessionExpiry: 60})
	if codes := lamp.Subscribe(1, "conv/+/messages", "conv/#", conv+"/messages", "user/+/presence", "user/"+ann.ID+"/#"); !bytes.Equal(codes, bytes.Repeat([]byte{packets.ErrNotAuthorized.Code}, 5)) {
		t.Errorf("a device subscribes to conversations: % x", codes)
	}
	for _, topic := range []string{conv + "/messages", conv + "/typing", conv + "/reads", "user/" + ann.ID + "/presence"} {
		if ack := lamp.Publish(1, topic, "hello"); ack.Code != packets.ErrNotAuthorized.Code {
			t.Errorf("a device publishes %s: %+v", topic, ack)
		}
	}
	lamp.Ping()
	// What the ACL file says of device topics, and of $SYS.
	screen := c.dial(t, "s")
	screen.MustConnect(brokertest.Connect{ClientID: "screen", Username: "screen", Password: "secret"})
	screen.MustSubscribe(0, "#", "$SYS/broker/version", "$SYS/broker/uptime")
	if pk := screen.Await(packets.Publish); pk.TopicName != "$SYS/broker/version" {
		t.Errorf("the screen receives %s", brokertest.Describe(pk))
	}
	for _, tt := range []struct {
		topic string
		code  byte
	}{{"home/lamp/on", 0}, {"home/door", packets.ErrNotAuthorized.Code}, {"home/lamp", 0}, {"dev/l1/x", packets.ErrNotAuthorized.Code}, {"$SYS/broker/version", packets.ErrNotAuthorized.Code}} {
		if ack := lamp.Publish(1, tt.topic, tt.topic); ack.Code != tt.code {
			t.Errorf("the lamp publishes %s: 0x%02x, want 0x%02x", tt.topic, ack.Code, tt.code)
		}
		if tt.code == 0 {
			expectPublication(t, screen, tt.topic, tt.topic)
		}
	}
	for _, as := range []brokertest.Connect{{Username: "ann", Password: password}, {Password: ann.Token}} { // a person, here
		person := c.dial(t, "s")
		as.ClientID = "phone"
		person.MustConnect(as)
		if ack := person.Publish(1, conv+"/messages", "hello from the same listener"); ack.Code != 0 || ack.Seq == 0 {
			t.Errorf("a person publishes: %+v", ack)
		}
		person.Disconnect()
	}
	for _, bad := range []brokertest.Connect{{}, {Username: "lamp"}, {Username: "lamp", Password: "wrong"}, {Username: "nobody", Password: "secret"}, {Password: "secret"}} {
		bad.ClientID = "x"
		if pk := c.dial(t, "s").Connect(bad); pk.ReasonCode != packets.ErrBadUsernameOrPassword.Code {
			t.Errorf("%+v is answered %s", bad, brokertest.Describe(pk))
		}
	}
	c.dial(t, "open").MustConnect(brokertest.Connect{ClientID: "l", Username: "lamp", Password: "secret"}) // its one connection
	c.dial(t, "open").ExpectClosed()

	gauge := c.dial(t, "s")
	gauge.MustConnect(brokertest.Connect{ClientID: "g", Username: "gauge", Password: "secret"})
	c.write(t, "passwords", strings.ReplaceAll(passwords, "lamp:", "# lamp:"))
	c.write(t, "acl", "nonsense\n")
	hangUp := func() {
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	hangUp()
	s.awaitLog(t, `line 1: \"nonsense\"`)
	lamp.Ping()
	c.write(t, "acl", "user gauge\ntopic home/#\n")
	hangUp()
	lamp.ExpectDisconnect(packets.ErrNotAuthorized.Code)
	s.awaitLog(t, `"disconnected":2`)
	gauge.Ping()
	if pk := c.dial(t, "s").Connect(brokertest.Connect{ClientID: "l1", Username: "lamp", Password: "secret"}); pk.ReasonCode != packets.ErrBadUsernameOrPassword.Code {
		t.Errorf("who is not in the file any more: %s", brokertest.Describe(pk))
	}
}

// Clients that are known by their certificates, and those who may come without any.
func TestMosquittoConfTLS(t *testing.T) {
	t.Parallel()
	c, ca := newConf(t), apptest.NewCA(t)
	cert, key := ca.Server(t, "server")
	port := silentPort(t)
	file := c.write(t, "mosquitto.conf", fmt.Sprintf(`per_listener_settings true
listener %s 127.0.0.1
certfile %s
keyfile %s
cafile %s
require_certificate true
use_identity_as_username true
use_username_as_clientid true
listener 0 DIR/anybody
allow_anonymous true
allow_zero_length_clientid false
`, port, cert, key, ca.File))
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)}, "--mosquitto-conf="+file)
	if !strings.Contains(s.Log(), `"listeners":["mqtts://127.0.0.1:`+port+`","mqtt://`+c.dir+`/anybody"]`) {
		t.Errorf("the ready line lacks the listeners:\n%s", s.Log())
	}
	connect := func(name string) *brokertest.Client {
		cert, key := ca.Client(t, name)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		config := ca.Config()
		config.Certificates = []tls.Certificate{pair}
		conn, err := tls.Dial("tcp", "127.0.0.1:"+port, config)
		if err != nil {
			t.Fatal(err)
		}
		return brokertest.New(t, conn)
	}
	first := connect("lamp")
	first.MustConnect(brokertest.Connect{ClientID: "a", Username: "whoever", Password: "whatever"})
	other := connect("gauge")
	other.MustConnect(brokertest.Connect{ClientID: "a"})
	first.Ping()
	connect("lamp").MustConnect(brokertest.Connect{ClientID: "b"}) // the same client id, by its name
	first.ExpectDisconnect(packets.ErrSessionTakenOver.Code)
	other.Ping()
	if pk := connect("").Connect(brokertest.Connect{ClientID: "a", Username: "lamp"}); pk.ReasonCode != packets.ErrBadUsernameOrPassword.Code {
		t.Errorf("a certificate without a name: %s", brokertest.Describe(pk))
	}

	for _, as := range []brokertest.Connect{{ClientID: "x"}, {ClientID: "x", Username: "lamp"}, {ClientID: "x", Username: "lamp", Password: "not looked at"}, {ClientID: "x", Version: 4}} {
		client := c.dial(t, "anybody")
		client.MustConnect(as)
		if ack := client.Publish(1, "conv/0198c0de-0000-7000-8000-000000000000/messages", "x"); client.Version == 5 && ack.Code != packets.ErrNotAuthorized.Code {
			t.Errorf("anybody publishes: %+v", ack)
		}
	}
	if pk := c.dial(t, "anybody").Connect(brokertest.Connect{}); pk.ReasonCode != packets.ErrClientIdentifierNotValid.Code {
		t.Errorf("no client id: %s", brokertest.Describe(pk))
	}
}

// What Parley cannot do, and what is wrong in a file, keeps it from starting, and is
// all named at once.
func TestMosquittoConfRefused(t *testing.T) {
	t.Parallel()
	c := newConf(t)
	file := c.write(t, "mosquitto.conf", "listener 0 DIR/s\npsk_file DIR/psk\nallow_anonimous true\nacl_file DIR/acl\n")
	c.write(t, "acl", "user ann\ntopic reed a\n")
	out, stderr, code := run(t, nil, "", "serve", "--mosquitto-conf="+file)
	if code != 1 {
		t.Errorf("it exits with %d", code)
	}
	for _, want := range []string{file + ":2: psk_file: ", file + ":3: allow_anonimous: there is no such option", c.dir + `/acl: line 2: topic: access is "reed"`} {
		if !strings.Contains(stderr, want) {
			t.Errorf("standard error lacks %q:\n%s", want, stderr)
		}
	}
	if !strings.Contains(out, "3 refused") && !strings.Contains(out, "2 refused") {
		t.Errorf("the table is\n%s", out)
	}
	if _, stderr, code := run(t, nil, "", "serve", "--mosquitto-conf="+c.dir+"/none"); code != 1 || !strings.Contains(stderr, "no such file") {
		t.Errorf("a missing file: %d, %s", code, stderr)
	}
}

// MQTT over TLS by Parley's own flags, as mosquitto's clients see it.
func TestServeTLS(t *testing.T) {
	t.Parallel()
	ca := apptest.NewCA(t)
	cert, key := ca.Server(t, "server")
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t), "PARLEY_TLS_CERT=" + cert, "PARLEY_TLS_KEY=" + key, "PARLEY_MQTTS_ADDR=127.0.0.1:0"})
	_, addr, ok := strings.Cut(s.Log(), `"listeners":["mqtts://`)
	addr, _, closed := strings.Cut(addr, `"`)
	if !ok || !closed {
		t.Fatalf("no listener in the ready line:\n%s", s.Log())
	}
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	programtest.Path(t, "mosquitto_pub")
	plain := s.MQTT
	s.MQTT = addr
	s.mosquitto(t, "mosquitto_pub", "--cafile", ca.File, "-V", "5", "-q", "1", "-u", "ann", "-P", password, "-t", "conv/"+conv+"/messages", "-m", "under lock")
	foreign := apptest.NewCA(t)
	if out, err := s.command(t, "mosquitto_pub", "--cafile", foreign.File, "-u", "ann", "-P", password, "-t", "conv/"+conv+"/messages", "-m", "x").CombinedOutput(); err == nil {
		t.Errorf("a client that does not trust the server has published: %s", out)
	}
	s.MQTT = plain
	if h := s.history(t, bob.Token, conv); len(h) != 1 || h[0].Content != "under lock" {
		t.Errorf("the history is %+v", h)
	}
	_, stderr, code := run(t, []string{"DATABASE_URL=postgres://x@127.0.0.1:1/x"}, "", "serve", "--tls-cert="+cert)
	if code != 1 || !strings.Contains(stderr, "--tls-key") {
		t.Errorf("a certificate without a key: %d, %s", code, stderr)
	}
	_, stderr, code = run(t, []string{"DATABASE_URL=postgres://x@127.0.0.1:1/x"}, "", "serve", "--mqtt-addr=127.0.0.1:0", "--http-addr=127.0.0.1:0", "--mqtts-addr=127.0.0.1:0", "--tls-cert="+key, "--tls-key="+key)
	if code != 1 || !strings.Contains(stderr, key) {
		t.Errorf("a file that is no certificate: %d, %s", code, stderr)
	}
}
