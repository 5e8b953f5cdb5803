package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// seat is where a client of the matrix sits: its line, and who it is.
type seat struct {
	line            *line
	clientID, token string
	topic           string
	version, qos    int
	transport       string
	server          *server
}

// args are a program's, as testdata/clients/README.md says.
func (s seat) args() []string {
	return []string{s.line.host, s.line.port, s.clientID, s.token, s.topic, strconv.Itoa(s.version), strconv.Itoa(s.qos), s.transport}
}

// partner is a client that runs, and what it has said so far.
type partner struct {
	send func(text string) // publishes, now or when it is connected again
	quit func() error      // disconnects, and waits for its end

	mu         sync.Mutex
	news       chan struct{} // mu guards: closed, and made anew, with each line
	connected  int           // mu guards: so often
	present    string        // mu guards: session present of the last time
	subscribed bool          // mu guards
	down       int           // mu guards: so often
	acked      []string      // mu guards
	messages   []message     // mu guards
	strange    []string      // mu guards: lines that are none of these
}

// heard takes in a line of what a client says.
func (p *partner) heard(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what, rest, _ := strings.Cut(line, " ")
	switch what {
	case "connected":
		p.connected++
		p.present = rest
	case "subscribed":
		p.subscribed = true
	case "down":
		p.down++
	case "acked":
		p.acked = append(p.acked, rest)
	case "message":
		var m message
		if err := json.Unmarshal([]byte(rest), &m); err != nil {
			p.strange = append(p.strange, line)
		}
		p.messages = append(p.messages, m)
	default:
		p.strange = append(p.strange, line)
	}
	close(p.news)
	p.news = make(chan struct{})
}

// await waits until cond holds; it is called with mu held.
func (p *partner) await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		ok, news := cond(), p.news
		p.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-news:
		case <-timeout:
			p.mu.Lock()
			defer p.mu.Unlock()
			seqs := make([]int64, len(p.messages))
			for i, m := range p.messages {
				seqs[i] = m.Seq
			}
			t.Fatalf("gave up waiting until %s: connected %d (%s), down %d, subscribed %v, acked %q, received %d, and %q",
				what, p.connected, p.present, p.down, p.subscribed, p.acked, seqs, p.strange)
		}
	}
}

// last returns the seq up to which everything from first on has come. mu is held.
func (p *partner) last(first int64) int64 {
	next := first
	for _, m := range p.messages {
		if m.Seq == next {
			next++
		}
	}
	return next - 1
}

// A client of the matrix.
var clients = []struct {
	name       string
	versions   []int
	transports []string
	start      func(t *testing.T, s seat) *partner
}{
	{"mosquitto_sub and mosquitto_pub", []int{4, 5}, []string{"tcp"}, startMosquittoClients},
	{"paho.golang", []int{5}, []string{"tcp", "ws"}, startAutopaho},
	{"paho.mqtt.golang", []int{4}, []string{"tcp", "ws"}, startPahoV3},
	{"MQTT.js", []int{4, 5}, []string{"tcp", "ws"}, startMQTTJS},
	{"libmosquitto", []int{4, 5}, []string{"tcp"}, startLibmosquitto},
	{"paho-mqtt for Python", []int{4, 5}, []string{"tcp", "ws"}, startPython},
}

// The libraries that everybody has, each in a small chat client, over a line that is cut
// again and again: what is said meanwhile, by the others and by itself, is there when it
// has come back, each once in the log, and received as the log has it.
func TestClientMatrix(t *testing.T) {
	t.Parallel()
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)})
	n := 0
	for _, c := range clients {
		for _, version := range c.versions {
			for _, transport := range c.transports {
				n++
				id, qos := n, 1+n%2
				t.Run(fmt.Sprintf("%s/MQTT %d over %s at QoS %d", c.name, version, transport, qos), func(t *testing.T) {
					t.Parallel()
					ann, bob := s.user(t, fmt.Sprintf("ann%d", id)), s.user(t, fmt.Sprintf("bob%d", id))
					target := s.MQTT
					if transport == "ws" {
						target = s.HTTP
					}
					conv := s.direct(t, ann, bob)
					chatOver(t, s, c.start, conv, ann, bob, seat{
						line: newLine(t, target), clientID: "phone", token: ann.Token, topic: "conv/" + conv + "/messages",
						version: version, qos: qos, transport: transport, server: s,
					})
				})
			}
		}
	}
}

func chatOver(t *testing.T, s *server, start func(*testing.T, seat) *partner, conv string, ann, bob user, where seat) {
	const first = 2 // event 1 is that the conversation was made
	total := int64(first - 1)
	var mine []string // what ann's client has said
	var p *partner
	say := func(text string) {
		p.send(text)
		mine = append(mine, text)
		total++
	}
	hear := func(text string) {
		s.rest(t, bob.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": text}, http.StatusCreated, nil)
		total++
	}
	all := func(what string) {
		t.Helper()
		p.await(t, what, func() bool { return p.last(first) >= total && len(p.acked) == len(mine) })
	}

	p = start(t, where)
	p.await(t, "it is subscribed", func() bool { return p.connected == 1 && p.subscribed })
	for i := range 3 {
		say(fmt.Sprintf("mine %d", i))
		hear(fmt.Sprintf("yours %d", i))
	}
	all("both have said three things")

	// The line is down for a while.
	where.line.Cut()
	p.await(t, "it has noticed", func() bool { return p.down == 1 })
	for i := range 5 {
		hear(fmt.Sprintf("while you were away %d", i))
	}
	say("while I was away")
	where.line.Mend()
	p.await(t, "it is back", func() bool { return p.connected >= 2 })
	if p.present == "0" {
		t.Error("its session was not there any more")
	}
	all("it has caught up")

	// The line is cut while both talk.
	done := make(chan struct{})
	go func() { // ends with its messages
		defer close(done)
		for i := range 60 {
			s.rest(t, bob.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": fmt.Sprintf("in between %d", i)}, http.StatusCreated, nil)
		}
	}()
	for i := range 12 {
		say(fmt.Sprintf("in between of mine %d", i))
		if i%5 == 2 {
			where.line.Cut()
			where.line.Mend()
		}
	}
	<-done
	total += 60
	all("everything in between has come")

	// The program ends, and is started again.
	if err := p.quit(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	for i := range 3 {
		hear(fmt.Sprintf("after you had left %d", i))
	}
	before := p
	p = start(t, where)
	p.mu.Lock()
	p.messages, p.acked = slices.Concat(before.messages, p.messages), slices.Concat(before.acked, p.acked) // it may have begun to receive
	p.mu.Unlock()
	p.await(t, "it is connected", func() bool { return p.connected == 1 })
	if p.present == "0" {
		t.Error("its session was not there after a restart")
	}
	all("it has caught up")
	say("goodbye")
	all("it has heard itself")
	if err := p.quit(); err != nil {
		t.Errorf("it ended with %v", err)
	}

	received := map[int64]message{}
	for _, m := range p.messages {
		if was, again := received[m.Seq]; again && was != m {
			t.Errorf("received as %+v and as %+v", was, m)
		}
		received[m.Seq] = m
	}
	said := map[string]int{}
	for _, m := range s.history(t, bob.Token, conv) {
		got := received[m.Seq]
		got.Type = m.Type // REST names none
		if got != m {
			t.Errorf("the log has %+v, received was %+v", m, received[m.Seq])
		}
		delete(received, m.Seq)
		if m.SenderID == ann.ID {
			said[m.Content]++
		}
	}
	for _, m := range received {
		t.Errorf("received was %+v, which the log does not have", m)
	}
	for _, text := range mine {
		if said[text] != 1 {
			t.Errorf("%q is in the log %d times", text, said[text])
		}
	}
	if len(p.strange) > 0 {
		t.Errorf("it said %q", p.strange)
	}
}

// startProgram runs one of testdata/clients.
func startProgram(t *testing.T, s seat, program string, args ...string) *partner {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, append(args, s.args()...)...)
	p := &partner{news: make(chan struct{})}
	var out syncBuffer
	cmd.Stdout = &lineWriter{line: p.heard, copy: &out}
	var complaints syncBuffer
	cmd.Stderr = &complaints
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceValue(cmd.Wait)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = ended()
		if t.Failed() {
			t.Logf("%s:\n%s", program, complaints.String())
		}
	})
	p.send = func(text string) {
		if _, err := io.WriteString(stdin, "send "+text+"\n"); err != nil {
			t.Errorf("%s does not read any more: %v", program, err)
		}
	}
	p.quit = func() error {
		_ = stdin.Close()
		return ended()
	}
	return p
}

const clientsDir = "testdata/clients"

func startMQTTJS(t *testing.T, s seat) *partner {
	node, npm := programtest.Path(t, "node"), programtest.Path(t, "npm")
	dir := filepath.Join(clientsDir, "mqttjs")
	if err := installMQTTJS(npm, dir); err != nil {
		t.Fatal(err)
	}
	return startProgram(t, s, node, filepath.Join(dir, "client.mjs"))
}

var (
	mqttJSOnce sync.Once
	errMQTTJS  error
)

// installMQTTJS fetches MQTT.js in its pinned version, unless it is there.
func installMQTTJS(npm, dir string) error {
	mqttJSOnce.Do(func() {
		lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
		if err != nil {
			errMQTTJS = err
			return
		}
		stamp := filepath.Join(dir, "node_modules", ".installed")
		if have, err := os.ReadFile(stamp); err == nil && bytes.Equal(have, lock) {
			return
		}
		cmd := exec.Command(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			errMQTTJS = fmt.Errorf("npm ci in %s: %w\n%s", dir, err, out)
			return
		}
		errMQTTJS = os.WriteFile(stamp, lock, 0o600)
	})
	return errMQTTJS
}

func startLibmosquitto(t *testing.T, s seat) *partner {
	cc := programtest.Path(t, "cc")
	test := exec.Command(cc, "-E", "-")
	test.Stdin = strings.NewReader("#include <mosquitto.h>\n")
	if test.Run() != nil {
		programtest.Missing(t, "libmosquitto", "there is no mosquitto.h")
	}
	path := filepath.Join(t.TempDir(), "libmosquitto-client")
	if out, err := exec.Command(cc, "-O1", "-pthread", "-o", path, filepath.Join(clientsDir, "libmosquitto.c"), "-lmosquitto").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	return startProgram(t, s, path)
}

func startPython(t *testing.T, s seat) *partner {
	for _, python := range []string{programtest.Path(t, "python3"), "/usr/bin/python3"} { // the second is Debian's, whose packages others do not see
		if exec.Command(python, "-c", "import paho.mqtt.client").Run() == nil {
			return startProgram(t, s, python, filepath.Join(clientsDir, "python.py"))
		}
	}
	programtest.Missing(t, "python-paho", "no python3 here has paho-mqtt")
	return nil
}
