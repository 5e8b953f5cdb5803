package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// link is a line to a database that can be cut, or made to stand still.
type link struct {
	net.Listener
	target string // path of the unix socket
	wg     sync.WaitGroup

	mu    sync.Mutex
	cond  *sync.Cond
	cut   bool                  // mu guards: connections are closed, and none is taken
	still bool                  // mu guards: nothing gets through
	conns map[net.Conn]struct{} // mu guards
}

func newLink(t *testing.T, target string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{Listener: ln, target: target, conns: map[net.Conn]struct{}{}}
	l.cond = sync.NewCond(&l.mu)
	l.wg.Go(l.serve) // ends when the listener is closed
	t.Cleanup(func() {
		_ = ln.Close()
		l.set(true, false)
		l.wg.Wait()
	})
	return l
}

func (l *link) serve() {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("unix", l.target)
		if err != nil || !l.add(c, far) {
			_ = c.Close()
			continue
		}
		l.wg.Go(func() { l.carry(c, far) }) // end when either is closed
		l.wg.Go(func() { l.carry(far, c) })
	}
}

func (l *link) add(c, far net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = far.Close()
		return false
	}
	l.conns[c], l.conns[far] = struct{}{}, struct{}{}
	return true
}

func (l *link) carry(to, from net.Conn) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		for l.still && !l.cut {
			l.cond.Wait()
		}
		l.mu.Unlock()
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
}

func (l *link) set(cut, still bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut, l.still = cut, still
	if cut {
		for c := range l.conns {
			_ = c.Close()
		}
		clear(l.conns)
	}
	l.cond.Broadcast()
}

// While the database is away, publishes wait within their bound and then cost the
// connection, without an acknowledgement; connections without business live on;
// whoever needs the database is told so. What ends meanwhile is saved when it is
// back, which needs no restart, and before the device goes on.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "postgres")
	start := func() *pgchild.Server {
		child, err := pgchild.New(pgchild.Options{Dir: dir})
		if errors.Is(err, pgchild.ErrNotInstalled) {
			programtest.Missing(t, "postgresql", err.Error())
		} else if err == nil {
			err = child.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return child
	}
	child := start()
	stop := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := child.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { stop() })
	config, err := pgx.ParseConfig(child.DSN())
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(t, filepath.Join(config.Host, fmt.Sprintf(".s.PGSQL.%d", config.Port)))
	_, port, _ := net.SplitHostPort(l.Addr().String())
	a := apptest.StartOn(t, fmt.Sprintf("host=127.0.0.1 port=%s user=%s dbname=%s sslmode=disable", port, config.User, config.Database),
		func(o *app.Options) { o.Writer.Patience = time.Second })
	u, peer := a.User(t, "u"), a.User(t, "peer")
	c := a.Direct(t, u, peer)
	idle := device(t, a, u, kept("idle", 5), false)
	idle.AutoAck = true
	idle.MustSubscribe(1, "conv/+/messages")
	last := int64(1)
	watches := a.Device(t, peer, brokertest.Connect{ClientID: "watches"})
	watches.MustSubscribe(0, "conv/+/typing")

	for i, fault := range []struct {
		name       string
		begin, end func()
	}{
		{"stopped", func() { stop() }, func() { child = start() }},
		{"cut", func() { l.set(true, false) }, func() { l.set(false, false) }},
		{"standing still", func() { l.set(false, true) }, func() { l.set(false, false) }},
	} {
		began := time.Now()
		// Devices with three messages each that they have not acknowledged.
		var away []*apptest.Device
		for n := range 5 {
			d := device(t, a, u, kept(fmt.Sprint("away", n), 5), i > 0)
			d.MustSubscribe(1, "conv/+/messages")
			away = append(away, d)
		}
		leaves := device(t, a, u, kept("leaves", 5), false)
		sender := a.Device(t, peer, brokertest.Connect{ClientID: "sender"})
		for range 3 {
			last = sender.Send(c, "before").Seq
			idle.ExpectEvent(c, last)
		}
		first := make([][3]packets.Packet, len(away))
		for n, d := range away {
			for k := range 3 {
				first[n][k] = d.ExpectEvent(c, last-2+int64(k)).Packet
			}
		}

		fault.begin()
		for _, d := range away {
			d.Close()
		}
		leaves.Client.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, Properties: packets.Properties{SessionExpiryIntervalFlag: true},
		})
		refused := a.Dial(t)
		refused.SendBytes(refused.Encode(u.As(kept("refused", 5)).Packet()))
		message := fmt.Sprintf(`{"content":"during","clientMsgId":%q}`, uuid(i+1))
		sender.PublishAsync(1, c.Topic("messages"), message)
		pk := sender.Expect(packets.Disconnect)
		if pk.ReasonCode != packets.ErrServerBusy.Code && pk.ReasonCode != packets.ErrServerUnavailable.Code {
			t.Errorf("%s: got %s", fault.name, brokertest.Describe(pk))
		}
		sender.ExpectClosed()
		if code := idle.Subscribe(1, "conv/+/typing")[0]; code < 0x80 {
			t.Errorf("%s: SUBSCRIBE was answered 0x%02x", fault.name, code)
		}
		if pk := refused.Expect(packets.Connack); pk.ReasonCode != packets.ErrServerUnavailable.Code {
			t.Errorf("%s: CONNECT was answered %s", fault.name, brokertest.Describe(pk))
		}
		idle.Ping()
		for _, typing := range []bool{true, false} { // needs no database
			idle.Client.Send(brokertest.Publish(c.Topic("typing"), 0, 0, fmt.Sprintf(`{"typing":%v}`, typing)))
			expectTyping(t, watches, c, u, typing)
		}
		fault.end()

		apptest.Eventually(t, "the database is used again", func() bool {
			d := a.Dial(t)
			if d.Connect(peer.As(brokertest.Connect{ClientID: "sender"})).ReasonCode != 0 {
				d.Close()
				return false
			}
			sender = apptest.NewDevice(t, d, peer)
			sender.PublishAsync(1, c.Topic("messages"), message)
			pk, err := sender.Recv(brokertest.Patience)
			if err != nil || pk.FixedHeader.Type != packets.Puback {
				return false
			}
			last = brokertest.AckOf(pk).Seq
			return pk.ReasonCode == 0
		})
		// Also where the line that stood still carried it to the database after it was
		// given up here: once, and still as it was subscribed.
		idle.ExpectEvent(c, last)
		sender.AutoAck = true
		if next := sender.Send(c, "after").Seq; next != last+1 {
			t.Errorf("%s: the next message is stored as %d, want %d", fault.name, next, last+1)
		}
		idle.ExpectEvent(c, last+1)
		for n := range away { // all at once
			away[n] = apptest.NewDevice(t, a.Dial(t), u)
			away[n].SendBytes(away[n].Encode(u.As(kept(fmt.Sprint("away", n), 5)).Packet()))
		}
		for n, d := range away {
			if pk := d.Expect(packets.Connack); pk.ReasonCode != 0 || !pk.SessionPresent {
				t.Fatalf("%s: got %s, session present %v", fault.name, brokertest.Describe(pk), pk.SessionPresent)
			}
			for k := range 3 {
				again(t, d, c, last-3+int64(k), first[n][k])
				ack(d, packets.Puback, first[n][k].PacketID)
			}
			for seq := last; seq <= last+1; seq++ {
				ack(d, packets.Puback, d.ExpectEvent(c, seq).Packet.PacketID)
			}
			d.Ping()
			d.Disconnect()
		}
		device(t, a, u, kept("leaves", 5), false).Client.Send(packets.Packet{
			FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, Properties: packets.Properties{SessionExpiryIntervalFlag: true},
		})
		t.Logf("%s: %v", fault.name, time.Since(began))
	}
	select {
	case err := <-a.Failed():
		t.Error("a part of the server has ended:", err)
	default:
	}
}

// A server that is stopped under load acknowledges what it has stored and says
// goodbye (0x8B). With the next one everybody goes on: what was not acknowledged
// is sent again and stored once, and nothing is missed.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	u, peer := a.User(t, "u"), a.User(t, "peer")
	c := a.Direct(t, u, peer)
	f := follower{last: map[apptest.Conv]int64{c: 1}}
	reader := device(t, a, u, kept("reader", 5), false)
	reader.AutoAck = true
	reader.MustSubscribe(1, "conv/+/messages")

	const publishers, messages = 4, 200
	type pending struct {
		id   uint16
		text string
	}
	left := make([][]pending, publishers) // what is not acknowledged, in order
	for p := range left {
		for i := range messages {
			left[p] = append(left[p], pending{uint16(i + 1), fmt.Sprintf("%d-%d", p, i)})
		}
	}
	sent := make([]int, publishers) // how many of left have been sent before
	stored := map[string]int64{}    // acknowledged, by text
	var mu sync.Mutex
	// publish sends what is left, 16 at a time, until that is done or the server
	// says goodbye.
	publish := func(p int, d *apptest.Device, enough chan<- struct{}) error {
		way := 0
		next := 0
		for len(left[p]) > 0 {
			for ; way < 16 && next < len(left[p]); way, next = way+1, next+1 {
				pk := brokertest.Publish(c.Topic("messages"), 1, left[p][next].id, left[p][next].text)
				pk.FixedHeader.Dup = next < sent[p]
				if err := d.Write(d.Encode(pk)); err != nil && enough == nil {
					return err
				}
			}
			pk, err := d.Recv(brokertest.Patience)
			switch {
			case err != nil:
				return err
			case pk.FixedHeader.Type == packets.Disconnect && pk.ReasonCode == packets.ErrServerShuttingDown.Code:
				sent[p] = next
				if _, err := d.Recv(brokertest.Patience); !errors.Is(err, io.EOF) {
					return fmt.Errorf("after DISCONNECT: %w", err)
				}
				return nil
			case pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != 0 || pk.PacketID != left[p][0].id:
				return fmt.Errorf("got %s, want PUBACK for %d", brokertest.Describe(pk), left[p][0].id)
			}
			mu.Lock()
			stored[left[p][0].text] = brokertest.AckOf(pk).Seq
			if len(stored) == publishers*messages/4 && enough != nil {
				close(enough)
			}
			mu.Unlock()
			left[p], way, next, sent[p] = left[p][1:], way-1, next-1, max(0, sent[p]-1)
		}
		return nil
	}
	round := func(a *apptest.App, present bool, enough chan struct{}) {
		t.Helper()
		var wg sync.WaitGroup
		for p := range publishers {
			d := device(t, a, peer, kept(fmt.Sprint(p), 5), present)
			wg.Go(func() {
				if err := publish(p, d, enough); err != nil {
					t.Errorf("publisher %d: %v", p, err)
				}
			})
		}
		if enough != nil {
			<-enough
			if err := a.Stop(t.Context()); err != nil {
				t.Error(err)
			}
		}
		wg.Wait()
	}
	round(a, false, make(chan struct{}))
	before := len(stored)
	for {
		pk, err := reader.Recv(brokertest.Patience)
		if err != nil {
			t.Fatal("no DISCONNECT:", err)
		}
		if pk.FixedHeader.Type == packets.Disconnect {
			if pk.ReasonCode != packets.ErrServerShuttingDown.Code {
				t.Errorf("got %s", brokertest.Describe(pk))
			}
			break
		}
		if err := f.take(pk); err != nil {
			t.Fatal(err)
		}
	}
	b := apptest.StartOn(t, dsn)
	round(b, true, nil)
	log := b.Log(t, u, c, 1)
	if len(log) != publishers*messages || len(stored) != len(log) || before == len(log) {
		t.Errorf("%d messages are stored, %d acknowledged, %d of them before the restart; want %d", len(log), len(stored), before, publishers*messages)
	}
	for _, e := range log {
		if stored[e.Content] != e.Seq {
			t.Errorf("%q is stored as %d and was acknowledged as %d", e.Content, e.Seq, stored[e.Content])
		}
	}
	reader = device(t, b, u, kept("reader", 5), true)
	reader.AutoAck = true
	f.until(t, reader, map[apptest.Conv]int64{c: int64(len(log)) + 1})
	reader.Ping()
	t.Logf("%d acknowledged before, %d events came again", before, f.dups)
}

// A reader that is stuck is cut off after the write timeout, and when it comes
// back it gets everything, from where it was.
func TestStuckReaderComesBack(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t, impatient)
	u, peer := a.User(t, "u"), a.User(t, "peer")
	c := a.Direct(t, u, peer)
	stuck := device(t, a, u, kept("stuck", 5), false)
	if tcp, ok := stuck.Conn().(interface{ SetReadBuffer(int) error }); ok {
		_ = tcp.SetReadBuffer(4 << 10)
	}
	stuck.MustSubscribe(1, "conv/+/messages")
	sender, near := a.Device(t, peer, brokertest.Connect{ClientID: "sender"}), a.Device(t, u, brokertest.Connect{ClientID: "near"})
	near.MustSubscribe(1, "conv/+/messages")
	last := int64(1)
	text := strings.Repeat("x", 60<<10)
	began := time.Now()
	apptest.Eventually(t, "it is cut off", func() bool {
		last = sender.Send(c, text).Seq
		near.ExpectEvent(c, last)
		return number(t, a, `SELECT count(*) FROM sessions WHERE user_id = $1 AND client_id = 'stuck' AND expires_at IS NOT NULL`, u.ID) == 1
	})
	t.Logf("cut off after %v and %d messages of 60 KiB", time.Since(began), last)
	f := follower{last: map[apptest.Conv]int64{c: 1}}
	d := device(t, a, u, kept("stuck", 5), true)
	d.AutoAck = true
	f.until(t, d, map[apptest.Conv]int64{c: last})
	d.Ping()
}
