package main_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store/storetest"
)

// The first promise of all: what was acknowledged is there after kill -9 of every
// process, once, at the place that the acknowledgement named. Publishers with
// windows keep the server busy while it is killed, or its PostgreSQL, or both, or
// while it is asked to stop; what was not acknowledged they send again, under the
// same clientMsgId, to the next server. Meanwhile a device whose session survives
// receives every event: some twice, none left out.
func TestKill(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere a killed server's PostgreSQL ends a little later, and so would this test")
	}
	dir := dataDir(t)
	env := []string{"PARLEY_DATA=" + dir, "PARLEY_DRAIN=300ms"} // of the one that is asked to stop
	random := seedtest.New(seedtest.Seed(t), 0)

	s := serve(t, env)
	// With this, what PostgreSQL had committed within the last moments was lost with it.
	execSQL(t, "host="+filepath.Join(dir, "postgres", "run")+" user=parley dbname=parley", `ALTER DATABASE parley SET synchronous_commit = off`)
	s.Stop(syscall.SIGTERM)
	s = serve(t, env)
	l := &flow{t: t}
	const pairs = 3
	var tokens, conversations []string
	for i := range pairs {
		ann, bob := s.user(t, fmt.Sprintf("ann%d", i)), s.user(t, fmt.Sprintf("bob%d", i))
		conv := s.direct(t, ann, bob)
		tokens, conversations = append(tokens, ann.Token), append(conversations, conv)
		for _, u := range []user{ann, bob} {
			l.publishers = append(l.publishers, &publisher{flow: l, user: u, topic: "conv/" + conv + "/messages", text: text(random)})
		}
	}
	l.start(s.MQTT)
	w := l.watch(user{Name: "ann0", Token: tokens[0]})
	kinds := []string{"server", "postgres", "both", "term"}
	for range 2 {
		random.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
		for _, kind := range kinds {
			l.await(s, 100+random.IntN(300))
			before := l.acked.Load()
			pid := postmaster(t, dir)
			if kind == "postgres" || kind == "both" {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			switch kind {
			case "server", "both":
				s.Stop(syscall.SIGKILL)
			case "term":
				s.Stop(syscall.SIGTERM)
			case "postgres":
				t.Logf("killed postgres at %d acknowledgements", before)
				continue // its server goes on, and starts another
			}
			s = serve(t, env)
			t.Logf("%s at %d acknowledgements; listening again after %v", kind, before, s.started)
			l.addr.Store(&s.MQTT)
		}
	}
	l.await(s, 200)
	l.finish()
	s.Stop(syscall.SIGTERM)
	s = serve(t, env)

	var total, again int
	for i, conv := range conversations {
		total += check(t, s.history(t, tokens[i], conv), l.publishers[2*i:2*i+2])
	}
	for _, p := range l.publishers {
		again += p.again
	}
	t.Logf("%d messages, of which %d were sent again", total, again)
	l.addr.Store(&s.MQTT)
	history := s.history(t, tokens[0], conversations[0])
	w.await(history[len(history)-1].Seq)

	// The oracle reads the database behind the running server.
	db := app.Database{DataDir: dir, Logger: slog.New(slog.DiscardHandler)}
	st, stop, err := db.Use(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	storetest.Check(t, st)
}

// check compares a conversation's history with what its publishers know, and
// returns how long it is.
func check(t *testing.T, history []message, publishers []*publisher) int {
	t.Helper()
	stored := map[string]message{}
	for i, m := range history {
		if want := int64(i + 2); m.Seq != want { // 1 is the making of the conversation
			t.Fatalf("the history goes from seq %d to %d", want-1, m.Seq)
		}
		if first, ok := stored[m.ClientMsgID]; ok {
			t.Errorf("clientMsgId %s is stored as %d and %d", m.ClientMsgID, first.Seq, m.Seq)
		}
		stored[m.ClientMsgID] = m
	}
	sent := 0
	for _, p := range publishers {
		sent += len(p.sent)
		for _, own := range p.sent {
			m, ok := stored[own.key]
			switch {
			case !ok:
				t.Errorf("%s was acknowledged as seq %d, and is not there", own.key, own.seq)
			case m.Seq != own.seq || m.ID != own.id || m.SenderID != p.user.ID || m.Content != own.content:
				t.Errorf("%s was acknowledged as seq %d, id %s; stored is %+v", own.key, own.seq, own.id, m)
			}
		}
	}
	if len(history) != sent {
		t.Errorf("%d messages are stored, %d were sent", len(history), sent)
	}
	return len(history)
}

// postmaster is the pid of the private PostgreSQL, once it is ready. The file that
// says so may still be that of one that was killed, and name anybody.
func postmaster(t testing.TB, dir string) int {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(dir, "postgres", "data", "postmaster.pid"))
		if lines := strings.Split(string(b), "\n"); err == nil && len(lines) > 7 && strings.TrimSpace(lines[7]) == "ready" {
			name, _ := os.ReadFile("/proc/" + lines[0] + "/comm")
			if pid, err := strconv.Atoi(lines[0]); err == nil && strings.TrimSpace(string(name)) == "postgres" {
				return pid
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no postmaster in %s: %v, %q", dir, err, b)
		}
	}
}

// text is filler of a random length.
func text(random *rand.Rand) string { return strings.Repeat("x", random.IntN(400)) }

// flow is publishers that keep a server busy, whichever it is at the time.
type flow struct {
	t          *testing.T
	addr       atomic.Pointer[string] // of the server's MQTT
	acked      atomic.Int64
	publishers []*publisher
	ending     atomic.Bool // send what is not acknowledged, and nothing new

	wg     sync.WaitGroup
	cancel context.CancelFunc
}

func (f *flow) start(addr string) {
	f.addr.Store(&addr)
	ctx, cancel := context.WithCancel(f.t.Context())
	f.cancel = cancel
	for _, p := range f.publishers {
		f.wg.Go(func() { p.run(ctx) })
	}
	f.t.Cleanup(func() { cancel(); f.wg.Wait() })
}

// await waits for n acknowledgements more, of a server that must not end.
func (f *flow) await(s *server, n int) {
	f.t.Helper()
	target := f.acked.Load() + int64(n)
	deadline, tick := time.After(patience), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for f.acked.Load() < target {
		select {
		case <-tick.C:
		case <-s.exited:
			f.t.Fatalf("parley has ended: %v", s.cmd.ProcessState)
		case <-deadline:
			f.t.Fatalf("%d acknowledgements did not come", target-f.acked.Load())
		}
	}
}

// finish lets the publishers come to an end.
func (f *flow) finish() {
	f.t.Helper()
	f.ending.Store(true)
	timer := time.AfterFunc(patience, f.cancel)
	f.wg.Wait()
	if !timer.Stop() {
		f.t.Fatal("the last messages were not acknowledged")
	}
}

// publisher is a device that publishes, with a window, until it is told to end. It
// speaks just enough MQTT 5 by itself: a client that resends on its own would hide
// what is looked for here.
type publisher struct {
	flow  *flow
	user  user
	topic string
	text  string
	sent  []*outgoing // all there ever were; owned by run
	again int         // how many were sent more than once
}

type outgoing struct {
	key, content, id string
	seq              int64 // 0: not acknowledged
	tries            int
}

const publisherWindow = 16

// run keeps connecting until everything is acknowledged, or ctx ends.
func (p *publisher) run(ctx context.Context) {
	for ctx.Err() == nil {
		done, err := p.session(ctx)
		if done {
			return
		}
		var refused *refusal
		if errors.As(err, &refused) {
			p.flow.t.Error(p.user.Name, err)
			return
		}
		select { // the next server may not be there yet
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// refusal is an answer that must not be.
type refusal struct{ what string }

func (r *refusal) Error() string { return r.what }

// session is one connection: first what is not acknowledged, then new messages.
func (p *publisher) session(ctx context.Context) (done bool, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", *p.flow.addr.Load())
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
	body := append(str(nil, "MQTT"), 5, 0x42, 0, 60, 0)
	packet(w, 0x10, str(str(body, "publisher"), p.user.Token))
	if err := w.Flush(); err != nil {
		return false, err
	}
	header, body, err := read(r)
	if err != nil || header != 0x20 || body[1] != 0 {
		return false, fmt.Errorf("CONNACK % x %w", body, err)
	}

	var due []*outgoing
	for _, m := range p.sent {
		if m.seq == 0 {
			due = append(due, m)
		}
	}
	var id uint16
	flying := map[uint16]*outgoing{}
	for {
		for len(flying) < publisherWindow {
			m := p.next(&due)
			if m == nil {
				break
			}
			id = id%0x7fff + 1
			flying[id] = m
			p.publish(w, id, m)
		}
		if len(flying) == 0 {
			return true, nil
		}
		if err := w.Flush(); err != nil {
			return false, err
		}
		header, body, err := read(r)
		switch {
		case err != nil:
			return false, err
		case header == 0xe0: // DISCONNECT: stopping, or the database was away for too long
			return false, io.EOF
		case header != 0x40 || len(body) < 4:
			return false, &refusal{fmt.Sprintf("packet %#x % x", header, body)}
		}
		packetID := binary.BigEndian.Uint16(body)
		m := flying[packetID]
		if m == nil || body[2] != 0 {
			return false, &refusal{fmt.Sprintf("PUBACK % x for %+v", body, m)}
		}
		delete(flying, packetID)
		if m.id, m.seq, err = storedAs(body[4:]); err != nil {
			return false, &refusal{err.Error()}
		}
		p.flow.acked.Add(1)
	}
}

// next is what to send next: a message that is due again, or a new one.
func (p *publisher) next(due *[]*outgoing) *outgoing {
	if len(*due) > 0 {
		m := (*due)[0]
		*due = (*due)[1:]
		return m
	}
	if p.flow.ending.Load() {
		return nil
	}
	m := &outgoing{key: uuid.NewString(), content: fmt.Sprintf("%s %d %s", p.user.Name, len(p.sent), p.text)}
	p.sent = append(p.sent, m)
	return m
}

func (p *publisher) publish(w *bufio.Writer, id uint16, m *outgoing) {
	if m.tries++; m.tries == 2 {
		p.again++
	}
	payload, err := json.Marshal(map[string]string{"content": m.content, "clientMsgId": m.key})
	if err != nil {
		panic(err) // of strings: it cannot fail
	}
	b := binary.BigEndian.AppendUint16(str(nil, p.topic), id)
	packet(w, 0x32, append(append(b, 0), payload...))
}

// storedAs reads the user properties of a PUBACK.
func storedAs(props []byte) (id string, seq int64, err error) {
	for len(props) > 0 {
		if props[0] != 0x26 {
			return "", 0, fmt.Errorf("a PUBACK with the properties % x", props)
		}
		var pair [2]string
		props = props[1:]
		for i := range pair {
			n := int(binary.BigEndian.Uint16(props))
			pair[i], props = string(props[2:2+n]), props[2+n:]
		}
		switch pair[0] {
		case "id":
			id = pair[1]
		case "seq":
			seq, err = strconv.ParseInt(pair[1], 10, 64)
		}
	}
	if id == "" || seq == 0 {
		err = errors.Join(err, errors.New("a PUBACK without id and seq"))
	}
	return id, seq, err
}

// watcher is a device that receives a user's events, over as many connections as
// it takes, with one session.
type watcher struct {
	flow *flow
	user user
	seen atomic.Int64 // the seq up to which it has received everything; there is one conversation
}

func (f *flow) watch(u user) *watcher {
	w := &watcher{flow: f, user: u}
	ctx, cancel := context.WithCancel(f.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for first := true; ctx.Err() == nil; {
			established, err := w.session(ctx, first)
			first = first && !established
			var refused *refusal
			if errors.As(err, &refused) {
				f.t.Error("watcher: ", err)
				return
			}
			select { // the next server may not be there yet
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	f.t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// await waits until everything up to seq has been received.
func (w *watcher) await(seq int64) {
	w.flow.t.Helper()
	for deadline := time.Now().Add(patience); w.seen.Load() < seq; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) || w.flow.t.Failed() {
			w.flow.t.Fatalf("the watcher has received the events up to %d, of %d", w.seen.Load(), seq)
		}
	}
}

// session is one connection. It reports whether the session is there from now on.
func (w *watcher) session(ctx context.Context, first bool) (established bool, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", *w.flow.addr.Load())
	if err != nil {
		return false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	in, out := bufio.NewReader(conn), bufio.NewWriter(conn)
	body := append(str(nil, "MQTT"), 5, 0x40, 0, 60, 5, 0x11, 0, 0, 0xff, 0xff) // no clean start; a session expiry of 18 hours
	packet(out, 0x10, str(str(body, "watcher"), w.user.Token))
	if err := out.Flush(); err != nil {
		return false, err
	}
	header, body, err := read(in)
	switch {
	case err != nil || header != 0x20 || body[1] != 0:
		return false, fmt.Errorf("CONNACK % x %w", body, err)
	case !first && body[0] != 1:
		return false, &refusal{"the session is gone"}
	}
	if first {
		packet(out, 0x82, append(str([]byte{0, 1, 0}, "conv/+/messages"), 1))
	}
	for established = !first; ; {
		if err := out.Flush(); err != nil {
			return established, err
		}
		header, body, err := read(in)
		switch {
		case err != nil:
			return established, err
		case header == 0x90 && body[len(body)-1] == 1:
			established = true
		case header>>4 == 3:
			n := 2 + int(binary.BigEndian.Uint16(body))
			var m message
			if err := json.Unmarshal(body[n+3:], &m); err != nil {
				return established, &refusal{fmt.Sprintf("%v in % x", err, body)}
			}
			switch seen := w.seen.Load(); {
			case seen == 0 || m.Seq == seen+1: // the first is where the subscription began
				w.seen.Store(m.Seq)
			case m.Seq > seen+1:
				return established, &refusal{fmt.Sprintf("event %d came after %d", m.Seq, seen)}
			}
			packet(out, 0x40, body[n:n+2])
		default: // DISCONNECT
			return established, io.EOF
		}
	}
}

func str(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func packet(w *bufio.Writer, header byte, body []byte) {
	_, _ = w.Write(append(binary.AppendUvarint([]byte{header}, uint64(len(body))), body...)) // an error comes back from Flush
}

func read(r *bufio.Reader) (header byte, body []byte, err error) {
	if header, err = r.ReadByte(); err != nil {
		return 0, nil, err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, err
	}
	body = make([]byte, n)
	_, err = io.ReadFull(r, body)
	return header, body, err
}
