package delivery_test

import (
	"context"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/delivery"
)

// receipts keeps what was delivered in memory.
type receipts struct {
	mu    sync.Mutex
	at    map[chat.ID]int64 // mu guards: Alice's place, by conversation
	told  int               // mu guards
	calls int               // mu guards
	fail  error             // mu guards
}

func (r *receipts) MarkDelivered(_ context.Context, moves []chat.DeliveredMove) ([]chat.DeliveredPlace, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	if r.fail != nil {
		return nil, r.fail
	}
	var news []chat.DeliveredPlace
	for _, m := range moves {
		if m.UserID == alice && m.UpTo > r.at[m.ConversationID] {
			r.at[m.ConversationID] = m.UpTo
			news = append(news, chat.DeliveredPlace{DeliveredMove: m})
		}
	}
	return news, nil
}

func (r *receipts) NotifyDelivered(_ context.Context, places []chat.DeliveredPlace) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told += len(places)
}

// What devices have acknowledged is saved once a second, also of a session that ends
// meanwhile, and after the database was away; it is told while somebody asks for it.
func TestDelivered(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, keep := newFakeLog(), &receipts{at: map[chat.ID]int64{}}
		l.add(convA, 0)
		l.add(convB, 0)
		sessions := newPhoneStore(l)
		r := delivery.NewRouter(delivery.Options{Log: l, Sessions: sessions, Receipts: keep})
		t.Cleanup(r.Close)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = r.Run(ctx) })
		want := func(a, b int64, told int) {
			t.Helper()
			time.Sleep(1500 * time.Millisecond)
			synctest.Wait()
			keep.mu.Lock()
			defer keep.mu.Unlock()
			if w := (map[chat.ID]int64{convA: a, convB: b}); !maps.Equal(keep.at, w) || keep.told != told {
				t.Errorf("delivered %v, want %v; %d told, want %d", keep.at, w, keep.told, told)
			}
		}
		connect := func(clientID string, expiry time.Duration, filters ...string) *setup {
			t.Helper()
			sink := newFakeSink()
			s, _, err := r.Take(t.Context(), delivery.SessionOptions{Principal: chat.Principal{UserID: alice}, ClientID: clientID, Sink: sink, CleanStart: true, Expiry: expiry})
			if err != nil {
				t.Fatal(err)
			}
			s.Start()
			u := &setup{t: t, log: l, router: r, sink: sink, s: s}
			for _, f := range filters {
				u.subscribe(f, 1)
			}
			return u
		}
		phone := connect("phone", time.Hour, "conv/+/messages")
		laptop := connect("laptop", 0, "conv/+/messages", "conv/+/reads")
		phone.post(convA, 3)
		phone.post(convB, 2)
		synctest.Wait()
		phone.s.Puback(1)
		phone.s.Puback(2)
		laptop.s.Puback(1)
		laptop.s.Puback(3) // not without a gap
		phone.s.Puback(3)
		phone.s.Puback(4)
		want(3, 1, 0)

		laptop.subscribe("conv/+/delivered", 0)
		laptop.s.Puback(2)
		laptop.s.Puback(4)
		laptop.s.Puback(5)
		r.Detach(laptop.s) // it asks no more, and what it acknowledged counts
		want(3, 2, 0)

		asking := connect("laptop", 0, "conv/+/delivered")
		keep.mu.Lock()
		keep.fail = &chat.Error{Code: chat.Unavailable}
		keep.mu.Unlock()
		phone.s.Puback(5)
		phone.post(convA, 1)
		synctest.Wait()
		phone.s.Puback(6)
		want(3, 2, 0)
		keep.mu.Lock()
		keep.fail = nil
		keep.mu.Unlock()
		want(4, 2, 1)
		asking.s.Unsubscribe([]string{"conv/+/delivered"})
		phone.post(convA, 1)
		synctest.Wait()
		phone.s.Puback(7)
		want(5, 2, 1)
		keep.mu.Lock()
		calls := keep.calls
		keep.mu.Unlock()
		time.Sleep(time.Minute)
		if keep.mu.Lock(); keep.calls != calls {
			t.Errorf("%d calls while nothing happens", keep.calls-calls)
		}
		keep.mu.Unlock()
		cancel()
		wg.Wait()
	})
}
