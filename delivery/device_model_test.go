package delivery_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
	"github.com/parleymq/parley/seedtest"
)

// TestDeviceModel runs a device that receives both events of a log and publications to
// device topics through random histories. Whatever comes when, and however the client
// acknowledges: never more than its Receive Maximum are on their way, under packet
// identifiers of their own; publications of one QoS come in their order, events in that of
// their log; what was not acknowledged comes again with its identifier and DUP, before
// anything new at QoS 1 and 2, and what was comes no more; PUBREL follows what was
// answered PUBREC; and in the end everything at QoS 1 and 2 has arrived, though neither
// kind leaves the other room of its own accord.
//
// It was tried on variants broken by hand, and finds these: what is on its way is not
// parked, or not the queue; restore forgets PUBREC; undo, wake or settle do not count; pump
// ignores the window, or is not called by an acknowledgement; something is sent before Start,
// or before what is to be sent again; what is taken out still counts as waiting. Who starves
// whom is for TestNeitherStarvesTheOther and TestDevicesWithoutTheLog.
func TestDeviceModel(t *testing.T) {
	t.Parallel()
	seedtest.Each(t, *modelRuns, func(seed uint64) { runDeviceModel(t, seed) })
}

// onTheWay is one publication that the client has and has not acknowledged.
type onTheWay struct {
	device bool
	n      int64 // its number, of its kind and QoS; or its place in the log
	qos    byte
	pubrec bool
}

type deviceModel struct {
	t      *testing.T
	r      *rand.Rand
	log    *fakeLog
	store  *node
	router *delivery.Router
	s      *delivery.Session
	sink   *fakeSink
	limit  int

	sent  [3]int64 // publications made, by QoS
	last  [3]int64 // the newest of each QoS that came for the first time
	event int64    // the newest event that came for the first time
	first int64    // the first event that is owed

	mu      sync.Mutex           // guards what follows and, against came, what is above
	open    map[uint16]*onTheWay // on this connection
	flying  map[uint16]*onTheWay // of the last one, and not on their way again
	started bool                 // CONNACK is out
	story   []string
}

func runDeviceModel(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		m := &deviceModel{t: t, r: rand.New(rand.NewPCG(seed, 2)), log: newFakeLog()}
		m.log.add(convA, 3)
		m.first, m.event = 4, 3
		m.store = &node{fakeSessions: &fakeSessions{log: m.log}, meantime: func() {}}
		m.router = delivery.NewRouter(delivery.Options{Log: m.log, Sessions: m.store})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { _ = m.router.Run(ctx); close(done) }()
		m.limit = 1 + m.r.IntN(6)
		m.connect()
		if err := m.s.Subscribe(ctx, []delivery.Subscription{sub(t, everything, byte(1+m.r.IntN(2)))}); err != nil {
			t.Fatal(err)
		}
		for range 30 + m.r.IntN(120) {
			m.step()
		}
		m.finish()
		m.router.Detach(m.s)
		cancel()
		<-done
		m.router.Close()
		if n := m.router.Waiting(); n != 0 {
			t.Errorf("%d bytes are said to wait, and nothing does", n)
		}
		if t.Failed() {
			t.Logf("%s=%d:\n%s", seedtest.EnvSeed, seed, strings.Join(m.story, "\n"))
		}
	})
}

func (m *deviceModel) tell(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.story = append(m.story, fmt.Sprintf(format, args...))
}

func (m *deviceModel) connect() {
	m.tell("connect")
	m.flying, m.open = map[uint16]*onTheWay{}, map[uint16]*onTheWay{}
	m.sink = newFakeSink()
	m.sink.check = func(p publication) { m.came(p.Packet, false, p.seq) }
	m.sink.checkDevice = func(c deviceCopy) { m.came(c.Packet, true, int64(c.Origin)) }
	s, _, err := m.router.Take(context.Background(), delivery.SessionOptions{
		Principal: chat.Principal{UserID: alice}, ClientID: "phone", ReceiveMaximum: m.limit, Sink: m.sink, Expiry: time.Hour,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.s = s
	s.Queue()
	m.start()
}

// start lets the session send, after what comes before CONNACK has waited.
func (m *deviceModel) start() {
	for range m.r.IntN(3) {
		m.publish()
	}
	m.mu.Lock()
	m.started = true
	m.mu.Unlock()
	m.s.Start()
	synctest.Wait()
}

// came checks one publication, on its way into the sink.
func (m *deviceModel) came(p delivery.Packet, device bool, n int64) {
	m.tell("  → device %v %d, packet %d, QoS %d, DUP %v", device, n, p.ID, p.QoS, p.Dup)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.started {
		m.t.Errorf("packet %d came before CONNACK", p.ID)
	}
	if p.QoS > 0 {
		if m.open[p.ID] != nil {
			m.t.Errorf("packet %d is used twice at once", p.ID)
		}
		if len(m.open) >= m.limit {
			m.t.Errorf("%d are on their way, and the Receive Maximum is %d", len(m.open)+1, m.limit)
		}
		m.open[p.ID] = &onTheWay{device: device, n: n, qos: p.QoS}
	}
	if p.Dup {
		f := m.flying[p.ID]
		if f == nil || f.pubrec || f.device != device || f.n != n || f.qos != p.QoS {
			m.t.Errorf("packet %d came again, and was %+v", p.ID, f)
		}
		delete(m.flying, p.ID)
		return
	}
	for id, f := range m.flying {
		if p.QoS > 0 && !f.pubrec {
			m.t.Errorf("packet %d came before %d, which was on its way", p.ID, id)
		}
	}
	switch {
	case !device && n != m.event+1:
		m.t.Errorf("event %d came after %d", n, m.event)
	case !device:
		m.event = n
	case n <= m.last[p.QoS]:
		m.t.Errorf("publication %d at QoS %d came after %d", n, p.QoS, m.last[p.QoS])
	case p.QoS > 0 && n != m.last[p.QoS]+1:
		m.t.Errorf("publication %d at QoS %d came after %d: something is lost", n, p.QoS, m.last[p.QoS])
	}
	if device {
		m.last[p.QoS] = n
	}
}

func (m *deviceModel) publish() {
	qos := byte(m.r.IntN(3))
	m.sent[qos]++
	m.tell("publish %d at QoS %d", m.sent[qos], qos)
	p := &chat.Publication{Topic: "t", QoS: qos, Origin: uint64(m.sent[qos]), Payload: []byte("x")}
	m.s.Queue().Receive(chat.PublicationCopy{Publication: p, QoS: qos})
}

func (m *deviceModel) commit() {
	m.log.mu.Lock()
	m.log.convs[convA].last++
	seq := m.log.convs[convA].last
	m.log.mu.Unlock()
	m.tell("commit %d", seq)
	m.router.Publish(event(convA, seq), &chat.Roster{Members: []chat.ID{alice}})
}

// acknowledge answers one publication or PUBREL and reports whether there was any.
func (m *deviceModel) acknowledge() bool {
	m.sink.mu.Lock()
	rels := m.sink.pubrels
	m.sink.pubrels = nil
	m.sink.mu.Unlock()
	for _, id := range rels { // PUBREL is always answered
		m.tell("PUBCOMP %d", id)
		m.mu.Lock()
		f := m.open[id]
		if f == nil {
			f = m.flying[id]
		}
		if f == nil || !f.pubrec {
			m.t.Errorf("PUBREL %d for %+v", id, f)
		}
		delete(m.open, id)
		delete(m.flying, id)
		m.mu.Unlock()
		m.s.Pubcomp(id)
	}
	m.mu.Lock()
	var ids []uint16
	for id, o := range m.open {
		if !o.pubrec {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		m.mu.Unlock()
		return len(rels) > 0
	}
	slices.Sort(ids)
	id := ids[m.r.IntN(len(ids))]
	o := *m.open[id]
	if o.qos == 2 {
		m.open[id].pubrec = true
	} else {
		delete(m.open, id)
	}
	m.mu.Unlock()
	m.tell("acknowledge packet %d", id)
	if o.qos == 2 {
		m.s.Pubrec(id, false)
	} else {
		m.s.Puback(id)
	}
	return true
}

func (m *deviceModel) step() {
	switch n := m.r.IntN(100); {
	case n < 35:
		m.publish()
	case n < 55:
		m.commit()
	case n < 80:
		m.acknowledge()
	case n < 88:
		room := m.r.IntN(4) - 1
		m.tell("room for %d", room)
		if m.sink.drain(room) {
			m.s.Writable()
		}
	case n < 92:
		m.log.set(func() {
			if m.log.broken[convA] == nil {
				m.log.broken[convA] = errDead
			} else {
				delete(m.log.broken, convA)
			}
		})
		m.tell("reading the log fails, or does no longer")
	default:
		m.reconnect(n < 97)
	}
	if m.r.IntN(3) > 0 {
		synctest.Wait()
	}
	if active, devices, a, d := m.s.WindowCounts(); active != a || devices != d {
		m.t.Errorf("the window counts %d, %d of them to device topics, and has %d and %d", active, devices, a, d)
	}
}

// reconnect ends the connection, or takes it over, with what is on its way.
func (m *deviceModel) reconnect(part bool) {
	synctest.Wait()
	old := m.open
	for id, f := range m.flying { // were not sent again yet
		old[id] = f
	}
	if part {
		m.router.Detach(m.s)
		for range m.r.IntN(3) { // while nobody is there
			m.publish()
		}
	}
	m.connectWith(old)
}

func (m *deviceModel) connectWith(old map[uint16]*onTheWay) {
	m.tell("connect again, %d were on their way", len(old))
	box := m.s.Queue()
	m.mu.Lock()
	m.flying, m.open, m.started = old, map[uint16]*onTheWay{}, false
	m.mu.Unlock()
	m.sink = newFakeSink()
	m.sink.check = func(p publication) { m.came(p.Packet, false, p.seq) }
	m.sink.checkDevice = func(c deviceCopy) { m.came(c.Packet, true, int64(c.Origin)) }
	s, present, err := m.router.Take(context.Background(), delivery.SessionOptions{
		Principal: chat.Principal{UserID: alice}, ClientID: "phone", ReceiveMaximum: m.limit, Sink: m.sink, Expiry: time.Hour,
	})
	if err != nil || !present {
		m.t.Fatal(present, err)
	}
	m.s = s
	if s.Queue() != box {
		m.t.Error("the session has another box")
	}
	m.start()
}

// finish gives everything room and time. Then nothing may be missing.
func (m *deviceModel) finish() {
	m.tell("finish")
	m.log.set(func() { clear(m.log.broken) })
	if m.sink.drain(-1) {
		m.s.Writable()
	}
	for idle := 0; idle < 2; {
		synctest.Wait()
		if m.acknowledge() {
			idle = 0
			continue
		}
		idle++
		time.Sleep(5 * time.Second) // reading is tried again
	}
	for qos := 1; qos < 3; qos++ {
		if m.last[qos] != m.sent[qos] {
			m.t.Errorf("publications at QoS %d came up to %d of %d", qos, m.last[qos], m.sent[qos])
		}
	}
	if last := m.log.convs[convA].last; m.event != last {
		m.t.Errorf("events came up to %d of %d", m.event, last)
	}
	if len(m.flying) > 0 || len(m.open) > 0 {
		m.t.Errorf("%d did not come again, %d are open", len(m.flying), len(m.open))
	}
}
