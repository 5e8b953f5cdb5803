package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"

	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// Two people talk, with the clients that everybody has: mosquitto's, in all
// versions and at every QoS. Each message reaches both users, and is in the
// history that a third program reads over REST.
func TestMosquitto(t *testing.T) {
	t.Parallel()
	programtest.Path(t, "mosquitto_pub")
	programtest.Path(t, "mosquitto_sub")
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)})
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	topic := "conv/" + conv + "/messages"
	seq := int64(1) // the event that the conversation was made
	for _, version := range []string{"31", "311", "5"} {
		for qos := range 3 {
			text := fmt.Sprintf("hello over MQTT %s at QoS %d", version, qos)
			seq++
			flags := []string{"-V", version, "-q", strconv.Itoa(qos)}
			// One listens to all that is theirs with a password, the other to this
			// conversation with a token.
			listeners := []*listener{
				s.listen(t, append(flags, "-u", "bob", "-P", password, "-t", "conv/+/messages")...),
				s.listen(t, append(flags, "-P", ann.Token, "-u", "whoever", "-t", topic)...),
			}
			s.mosquitto(t, "mosquitto_pub", append(flags, "-u", "ann", "-P", password, "-t", topic, "-m", text)...)
			for _, l := range listeners {
				var m message
				line := l.Line(t)
				if err := json.Unmarshal([]byte(line), &m); err != nil {
					t.Fatalf("%v in %q", err, line)
				}
				if m.Seq != seq || m.Content != text || m.Type != "message" || m.ConversationID != conv || m.SenderID != ann.ID {
					t.Errorf("MQTT %s, QoS %d: %s", version, qos, line)
				}
				l.Wait(t)
			}
		}
	}
	history := s.history(t, bob.Token, conv)
	if len(history) != 9 || history[8].Content != "hello over MQTT 5 at QoS 2" || history[8].Seq != seq {
		t.Errorf("the history is %+v", history)
	}

	// Somebody who is not part of it hears so, where the protocol has words for it.
	eve := s.user(t, "eve")
	for _, version := range []string{"31", "311", "5"} {
		out, _ := s.command(t, "mosquitto_sub", "-V", version, "-u", "x", "-P", eve.Token, "-q", "1", "-t", topic, "-E").CombinedOutput()
		if !strings.Contains(string(out), "denied") {
			t.Errorf("eve subscribes with MQTT %s: %s", version, out)
		}
	}
	out, _ := s.command(t, "mosquitto_pub", "-V", "5", "-u", "x", "-P", eve.Token, "-q", "1", "-t", topic, "-m", "me too").CombinedOutput()
	if !strings.Contains(string(out), "Not authorized") {
		t.Errorf("eve publishes with MQTT 5: %s", out)
	}
	if now := s.history(t, bob.Token, conv); len(now) != len(history) {
		t.Errorf("eve was heard: %+v", now[len(now)-1])
	}
}

// command is one of mosquitto's clients, to run against the server.
func (s *server) command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	host, port, err := net.SplitHostPort(s.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, name, append([]string{"-h", host, "-p", port}, args...)...)
}

// mosquitto runs one of mosquitto's clients; it must succeed without a word.
func (s *server) mosquitto(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := s.command(t, name, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%s %s: %v %s", name, strings.Join(args, " "), err, out)
	}
}

// listener is a mosquitto_sub that waits for one message.
type listener struct {
	cmd        *exec.Cmd
	lines      chan string
	subscribed chan struct{} // closed when it is subscribed
	dropped    chan struct{} // closed when the server has ended the connection
	out        syncBuffer
}

// listen starts mosquitto_sub for one message, and returns when it is subscribed.
func (s *server) listen(t testing.TB, args ...string) *listener {
	t.Helper()
	stdbuf := programtest.Path(t, "stdbuf") // mosquitto_sub keeps what it says when it writes to a pipe
	cmd := s.command(t, "mosquitto_sub", append(args, "-C", "1", "-d")...)
	cmd.Path, cmd.Args = stdbuf, append([]string{"stdbuf", "-oL"}, cmd.Args...)
	l := newListener(cmd)
	l.start(t)
	return l
}

// newListener is a listener that runs cmd, a mosquitto_sub with debugging output:
// nothing else tells when it is subscribed.
func newListener(cmd *exec.Cmd) *listener {
	l := &listener{cmd: cmd, lines: make(chan string, 16), subscribed: make(chan struct{}), dropped: make(chan struct{})}
	subscribed := sync.OnceFunc(func() { close(l.subscribed) })
	dropped := sync.OnceFunc(func() { close(l.dropped) })
	w := &lineWriter{line: func(line string) {
		switch {
		case strings.HasPrefix(line, "Subscribed ("):
			subscribed()
		case strings.HasPrefix(line, "{"):
			l.lines <- line
		case strings.HasPrefix(line, "Received DISCONNECT"):
			dropped()
		}
	}, copy: &l.out}
	cmd.Stdout, cmd.Stderr = w, w
	return l
}

// start starts it and waits until it is subscribed.
func (l *listener) start(t testing.TB) {
	t.Helper()
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.subscribed:
	case <-time.After(patience):
		t.Fatalf("%s did not subscribe:\n%s", strings.Join(l.cmd.Args, " "), l.out.String())
	}
}

// Line returns the message that was printed.
func (l *listener) Line(t testing.TB) string {
	t.Helper()
	select {
	case line := <-l.lines:
		return line
	case <-time.After(patience):
		t.Fatalf("nothing was received:\n%s", l.out.String())
		return ""
	}
}

// Wait waits for the end of a listener that has what it wanted.
func (l *listener) Wait(t testing.TB) {
	t.Helper()
	if err := l.cmd.Wait(); err != nil {
		t.Errorf("mosquitto_sub: %v:\n%s", err, l.out.String())
	}
}

// lineWriter calls line for each line written to it. os/exec calls it from one
// goroutine.
type lineWriter struct {
	line func(string)
	copy *syncBuffer
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	_, _ = w.copy.Write(p)
	w.rest = append(w.rest, p...)
	for {
		line, rest, ok := bytes.Cut(w.rest, []byte{'\n'})
		if !ok {
			return len(p), nil
		}
		w.line(string(line))
		w.rest = rest
	}
}

// The same with paho.golang, plain: the acknowledgement says what was stored.
func TestPaho(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)})
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	conn, err := net.Dial("tcp", s.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan *paho.Publish, 16)
	c := paho.NewClient(paho.ClientConfig{Conn: conn, OnPublishReceived: receive(received)})
	ack, err := c.Connect(ctx, &paho.Connect{ClientID: "laptop", CleanStart: true, KeepAlive: 30, Password: []byte(ann.Token), PasswordFlag: true})
	if err != nil {
		t.Fatal(err)
	}
	if p := ack.Properties; p.MaximumPacketSize == nil || p.ReceiveMaximum == nil || !p.SharedSubAvailable {
		t.Errorf("CONNACK has the properties %+v", p)
	}
	subscribe(t, ctx, c, "conv/"+conv+"/messages")
	want := talk(t, ctx, c, conv, ann, received)
	if err := c.Disconnect(&paho.Disconnect{}); err != nil {
		t.Error(err)
	}
	if got := s.history(t, bob.Token, conv); len(got) != len(want) {
		t.Errorf("the history has %d messages, want %d", len(got), len(want))
	} else {
		for i := range got {
			if got[i].ID != want[i].ID || got[i].Seq != want[i].Seq || got[i].CreatedAt != want[i].CreatedAt || got[i].Content != want[i].Content {
				t.Errorf("the history has %+v, want %+v", got[i], want[i])
			}
		}
	}
}

// The same with autopaho, over TCP and over WebSocket as a browser would.
func TestAutopaho(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)})
	ann, bob := s.user(t, "ann"), s.user(t, "bob")
	conv := s.direct(t, ann, bob)
	for _, where := range []string{"mqtt://" + s.MQTT, "ws://" + s.HTTP + "/mqtt"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		u, err := url.Parse(where)
		if err != nil {
			t.Fatal(err)
		}
		received := make(chan *paho.Publish, 16)
		cm, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
			ServerUrls: []*url.URL{u}, KeepAlive: 30, CleanStartOnInitialConnection: true,
			ConnectUsername: "bob", ConnectPassword: []byte(password),
			OnConnectError: func(err error) { t.Error(err) },
			ClientConfig:   paho.ClientConfig{ClientID: "phone", OnPublishReceived: receive(received)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := cm.AwaitConnection(ctx); err != nil {
			t.Fatal(err)
		}
		subscribe(t, ctx, cm, "conv/#")
		talk(t, ctx, cm, conv, bob, received)
		if err := cm.Disconnect(ctx); err != nil {
			t.Error(err)
		}
		<-cm.Done()
	}
	if got := s.history(t, ann.Token, conv); len(got) != 6 {
		t.Errorf("the history has %d messages, want 6: %+v", len(got), got)
	}
}

func receive(to chan<- *paho.Publish) []func(paho.PublishReceived) (bool, error) {
	return []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
		to <- p.Packet
		return true, nil
	}}
}

// client is what paho's and autopaho's clients have in common.
type client interface {
	Subscribe(context.Context, *paho.Subscribe) (*paho.Suback, error)
	Publish(context.Context, *paho.Publish) (*paho.PublishResponse, error)
}

func subscribe(t *testing.T, ctx context.Context, c client, filter string) {
	t.Helper()
	if _, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: filter, QoS: 2}}}); err != nil {
		t.Fatal(err)
	}
}

// talk says something at each QoS, and checks that the acknowledgement and the
// event, which comes back to its sender too, agree.
func talk(t *testing.T, ctx context.Context, c client, conv string, from user, received <-chan *paho.Publish) []message {
	t.Helper()
	var said []message
	for qos := range byte(3) {
		text := fmt.Sprintf("at QoS %d", qos)
		r, err := c.Publish(ctx, &paho.Publish{Topic: "conv/" + conv + "/messages", QoS: qos, Payload: []byte(text)})
		if err != nil {
			t.Fatalf("publish at QoS %d: %v", qos, err)
		}
		var p *paho.Publish
		select {
		case p = <-received:
		case <-ctx.Done():
			t.Fatalf("the message at QoS %d did not come back", qos)
		}
		var m message
		if err := json.Unmarshal(p.Payload, &m); err != nil {
			t.Fatal(err)
		}
		if m.Content != text || m.SenderID != from.ID || m.ConversationID != conv || p.QoS != 2 {
			t.Errorf("received %s at QoS %d", p.Payload, p.QoS)
		}
		if qos == 1 { // at QoS 2 they come with PUBREC, and paho shows PUBCOMP
			for key, want := range map[string]string{"id": m.ID, "seq": strconv.FormatInt(m.Seq, 10), "createdAt": m.CreatedAt} {
				if got := r.Properties.User.Get(key); got != want {
					t.Errorf("the acknowledgement says %s=%q, the event %q", key, got, want)
				}
			}
		}
		said = append(said, m)
	}
	return said
}

// Disconnected waits until the server has ended the listener's connection, which
// mosquitto_sub says and then tries again.
func (l *listener) Disconnected(t testing.TB) {
	t.Helper()
	select {
	case <-l.dropped:
	case <-time.After(patience):
		t.Errorf("the listener is still connected:\n%s", l.out.String())
	}
	l.Stop()
}

// Stop ends it.
func (l *listener) Stop() {
	_ = l.cmd.Process.Kill()
	_ = l.cmd.Wait() // killed
}
