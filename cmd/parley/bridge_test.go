package main_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// recipe returns the block of docs/mosquitto.md that begins so.
func recipe(t testing.TB, begin string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/mosquitto.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(b), "```\n"+begin+"\n")
	block, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatalf("docs/mosquitto.md has no block that begins with %q", begin)
	}
	return begin + "\n" + block
}

// wire carries TCP connections to an address, and can be cut and mended.
type wire struct {
	l  net.Listener
	to string

	mu    sync.Mutex
	whole bool
	open  map[net.Conn]struct{}
	wg    sync.WaitGroup
}

func newWire(t testing.TB, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{l: l, to: to, whole: true, open: map[net.Conn]struct{}{}}
	w.wg.Go(func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.carry(c) })
		}
	})
	t.Cleanup(func() { l.Close(); w.set(false); w.wg.Wait() })
	return w
}

func (w *wire) carry(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer far.Close()
	w.mu.Lock()
	if !w.whole {
		w.mu.Unlock()
		return
	}
	w.open[near], w.open[far] = struct{}{}, struct{}{}
	w.mu.Unlock()
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() { _, _ = io.Copy(pair[0], pair[1]); pair[0].Close(); pair[1].Close() })
	}
	wg.Wait()
	w.mu.Lock()
	delete(w.open, near)
	delete(w.open, far)
	w.mu.Unlock()
}

// set cuts the wire, or mends it.
func (w *wire) set(whole bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.whole = whole
	for c := range w.open {
		if !whole {
			c.Close()
		}
	}
}

// realBroker is a running Mosquitto.
type realBroker struct {
	c     conf
	lines chan string // of its log
}

// startMosquitto runs Mosquitto with a listener on the unix socket "mosquitto", for
// everybody, and the lines.
func startMosquitto(t testing.TB, c conf, lines string) *realBroker {
	t.Helper()
	path := programtest.Path(t, "mosquitto")
	text := "listener 0 DIR/mosquitto\nallow_anonymous true\nlog_dest stderr\nlog_type all\n" + lines
	if os.Getuid() == 0 {
		text += "\nuser root\n" // or it could not read the test's files
	}
	cmd := exec.Command(path, "-c", c.write(t, "real.conf", text))
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log syncBuffer
	b := &realBroker{c: c, lines: make(chan string, 10_000)}
	read := make(chan struct{})
	go func() { // ends with the process
		defer close(read)
		for s := bufio.NewScanner(io.TeeReader(stderr, &log)); s.Scan(); {
			select {
			case b.lines <- s.Text():
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("mosquitto's log:\n%s", log.String())
		}
	})
	b.await(t, "running")
	return b
}

// await waits for a line of the log that holds the words.
func (b *realBroker) await(t testing.TB, words ...string) {
	t.Helper()
	timeout := time.After(4 * patience) // before it connects again, it waits longer each time
	for {
		select {
		case line := <-b.lines:
			if slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) }) {
				return
			}
		case <-timeout:
			t.Fatalf("mosquitto never said %q", words)
		}
	}
}

func (b *realBroker) client(t testing.TB, id string) *brokertest.Client {
	t.Helper()
	c := b.c.dial(t, "mosquitto")
	c.MustConnect(brokertest.Connect{ClientID: id})
	c.AutoAck = true
	return c
}

// expectPublication waits for a publication.
func expectPublication(t testing.TB, c *brokertest.Client, topic, payload string) {
	t.Helper()
	if pk := c.Await(packets.Publish); pk.TopicName != topic || string(pk.Payload) != payload {
		t.Fatalf("got %q on %s, want %q on %s", pk.Payload, pk.TopicName, payload, topic)
	}
}

// expectAgain is expectPublication, where what came last before the line was cut may come again:
// its acknowledgement may not have come through (QoS 1).
func expectAgain(t testing.TB, c *brokertest.Client, topic, payload, last string) {
	t.Helper()
	pk := c.Await(packets.Publish)
	for string(pk.Payload) == last {
		pk = c.Await(packets.Publish)
	}
	if pk.TopicName != topic || string(pk.Payload) != payload {
		t.Fatalf("got %q on %s, want %q on %s", pk.Payload, pk.TopicName, payload, topic)
	}
}

// A real Mosquitto bridges its devices into Parley and back, as docs/mosquitto.md says
// it: over TLS, at QoS 1, and nothing is lost or sent round while the line is cut.
func TestBridge(t *testing.T) {
	t.Parallel()
	c, ca := newConf(t), apptest.NewCA(t)
	cert, key := ca.Server(t, "parley")
	port := silentPort(t)
	file := c.write(t, "mosquitto.conf", fmt.Sprintf("listener %s 127.0.0.1\ncertfile %s\nkeyfile %s\nlistener 0 DIR/parley\npassword_file DIR/passwords\nacl_file DIR/acl\n", port, cert, key))
	c.write(t, "passwords", "bridge:"+secretHash+"\nscreen:"+secretHash+"\n")
	c.write(t, "acl", recipe(t, "user bridge")+"user screen\ntopic #\n")
	serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)}, "--mosquitto-conf="+file)
	line := newWire(t, "127.0.0.1:"+port)
	for _, version := range []string{"mqttv50", "mqttv311"} {
		t.Run(version, func(t *testing.T) {
			dir := newConf(t)
			defer line.set(true)
			_, linePort, _ := net.SplitHostPort(line.l.Addr().String())
			lines := strings.NewReplacer(
				"parley.example.com:8883", "127.0.0.1:"+linePort, "/etc/ssl/certs/ca-certificates.crt", ca.File, "mqttv311", version,
			).Replace(recipe(t, "connection parley")) + "restart_timeout 1\n"
			real := startMosquitto(t, dir, lines)
			real.await(t, "Received SUBACK")
			real.await(t, "Received SUBACK")

			screen := c.dial(t, "parley")
			screen.MustConnect(brokertest.Connect{ClientID: "screen" + version, Username: "screen", Password: "secret"})
			screen.AutoAck = true
			screen.MustSubscribe(1, "sensors/#", "shared/#")
			sensor, actor := real.client(t, "sensor"), real.client(t, "actor")
			actor.MustSubscribe(1, "commands/#", "shared/#")

			publishTo := func(c *brokertest.Client, topic, payload string) {
				if ack := c.Publish(1, topic, payload); ack.Code >= 0x80 {
					t.Fatalf("%s: %+v", topic, ack)
				}
			}
			publishTo(sensor, "sensors/kitchen/temperature", "21")
			expectPublication(t, screen, "sensors/kitchen/temperature", "21")
			publishTo(screen, "commands/kitchen/heater", "off")
			expectPublication(t, actor, "commands/kitchen/heater", "off")
			publishTo(sensor, "shared/a", "from there")
			expectPublication(t, screen, "shared/a", "from there")
			expectPublication(t, actor, "shared/a", "from there")
			publishTo(screen, "shared/b", "from here")
			expectPublication(t, actor, "shared/b", "from here")
			expectPublication(t, screen, "shared/b", "from here")

			line.set(false)
			real.await(t, "closed its connection", "disconnected: ") // as OpenSSL has found the end
			for i := range 20 {
				publishTo(sensor, "sensors/kitchen/count", fmt.Sprint(i))
				if version == "mqttv311" { // over MQTT 5 Mosquitto 2.0 asks for a session that ends with the connection
					publishTo(screen, "commands/kitchen/count", fmt.Sprint(i))
				}
			}
			line.set(true)
			real.await(t, "Received CONNACK")
			for i := range 20 {
				expectAgain(t, screen, "sensors/kitchen/count", fmt.Sprint(i), "from there")
				if version == "mqttv311" {
					expectAgain(t, actor, "commands/kitchen/count", fmt.Sprint(i), "from here")
				}
			}
			real.await(t, "Received SUBACK")
			real.await(t, "Received SUBACK")
			publishTo(sensor, "sensors/kitchen/last", "x")
			expectPublication(t, screen, "sensors/kitchen/last", "x")
			publishTo(screen, "commands/kitchen/last", "x")
			expectPublication(t, actor, "commands/kitchen/last", "x")
		})
	}
}

// A bridge that logs in as a bot's account writes what its devices say into a
// conversation, and brings what is said there back to them.
func TestBridgeToConversation(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)})
	bell, bob := s.user(t, "doorbell"), s.user(t, "bob")
	conv := s.direct(t, bell, bob)
	real := startMosquitto(t, newConf(t), strings.NewReplacer(
		"parley.example.com:8883", s.MQTT, "bridge_cafile /etc/ssl/certs/ca-certificates.crt\n", "", "its password", password, "01a215aa-a3a7-7369-bb3f-b7d9abf7eed1", conv,
	).Replace(recipe(t, "connection doorbell")))
	real.await(t, "SUBACK")
	device := real.client(t, "button")
	device.MustSubscribe(1, "answers/messages")
	device.Publish(1, "bell/messages", "Somebody is at the door.")
	if pk := device.Await(packets.Publish); !strings.Contains(string(pk.Payload), `"content":"Somebody is at the door."`) || !strings.Contains(string(pk.Payload), bell.ID) {
		t.Errorf("the device hears %s", pk.Payload)
	}
	phone := brokertest.Open(t, s.MQTT, brokertest.Connect{ClientID: "phone", Password: bob.Token})
	if ack := phone.Publish(1, "conv/"+conv+"/messages", "Coming."); ack.Seq != 3 {
		t.Errorf("bob's answer: %+v", ack)
	}
	if pk := device.Await(packets.Publish); pk.TopicName != "answers/messages" || !strings.Contains(string(pk.Payload), `"content":"Coming."`) {
		t.Errorf("the device hears %s", pk.Payload)
	}
	if h := s.history(t, bob.Token, conv); len(h) != 2 || h[0].Content != "Somebody is at the door." || h[0].SenderID != bell.ID || h[1].Content != "Coming." {
		t.Errorf("the history is %+v", h)
	}
}
