package client_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	"github.com/google/uuid"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
	"github.com/parleymq/parley/store/storetest"
)

// A rolling restart, seen by programs: a server drains while the next one listens at
// its address. This client and plain autopaho connect again by themselves, and what
// they send all the while is acknowledged, once in the log each, none left out.
func TestServerDrains(t *testing.T) {
	t.Parallel()
	const ours, pahos = 6, 6
	dsn := storetest.DSN(t)
	before := apptest.StartOn(t, dsn, func(o *app.Options) { o.Drain, o.ServerReference = time.Second, "b.example.com" })
	addr := before.MQTTAddr()
	ann, bob := before.User(t, "ann"), before.User(t, "bob")
	conv := before.Direct(t, ann, bob)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup // of senders
	var back, sent atomic.Int64
	var ending atomic.Bool
	keys := make(chan string, 100_000)
	send := func(name string, publish func(key, text string) error) {
		wg.Go(func() {
			for i := 0; !ending.Load(); i++ {
				key := uuid.Must(uuid.NewV7()).String()
				if err := publish(key, fmt.Sprint(name, " ", i)); err != nil {
					if ctx.Err() == nil {
						t.Errorf("%s: %v", name, err)
					}
					return
				}
				sent.Add(1)
				keys <- key
			}
		})
	}
	for i := range ours {
		o := options(before, ann, fmt.Sprint("ours", i))
		o.OnConnect = func(c client.Connection) {
			if c.Reconnect && c.SessionPresent {
				back.Add(1)
			}
		}
		c := dial(t, o)
		send(o.ClientID, func(key, text string) error {
			_, err := c.Send(ctx, client.ID(conv), client.Message{Content: text, ClientMsgID: client.ID(key)})
			return err
		})
	}
	for i := range pahos {
		name := fmt.Sprint("paho", i)
		var connects atomic.Int64
		cm, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
			ServerUrls: []*url.URL{{Scheme: "mqtt", Host: addr}}, KeepAlive: 60, ConnectUsername: ann.Username, ConnectPassword: []byte(ann.Token), SessionExpiryInterval: 3600,
			ReconnectBackoff: func(int) time.Duration { return 20 * time.Millisecond },
			OnConnectionUp: func(_ *autopaho.ConnectionManager, ack *paho.Connack) {
				if connects.Add(1) == 2 && ack.SessionPresent {
					back.Add(1)
				}
			},
			ClientConfig: paho.ClientConfig{ClientID: name},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cancel(); <-cm.Done() })
		send(name, func(key, text string) error {
			for { // autopaho says when a connection has ended under a publish; it is for the program to repeat
				if err := cm.AwaitConnection(ctx); err != nil {
					return err
				}
				_, err := cm.Publish(ctx, &paho.Publish{QoS: 1, Topic: conv.Topic("messages"), Payload: fmt.Appendf(nil, `{"content":%q,"clientMsgId":%q}`, text, key)})
				if err == nil || ctx.Err() != nil {
					return err
				}
			}
		})
	}
	apptest.Eventually(t, "messages flow", func() bool { return sent.Load() > 200 })
	stopped := make(chan error, 1)
	go func() { stopped <- before.Stop(context.Background()) }()
	after := listenAfter(t, dsn, addr)
	if err := <-stopped; err != nil {
		t.Error("Stop:", err)
	}
	apptest.Eventually(t, "all are back in their sessions", func() bool { return back.Load() == ours+pahos })
	n := sent.Load()
	apptest.Eventually(t, "messages flow again", func() bool { return sent.Load() > n+200 })
	ending.Store(true)
	wg.Wait()
	cancel()

	stored := map[string]int{}
	for _, e := range after.Log(t, bob, conv, 0) {
		stored[e.ClientMsgID.String()]++
	}
	close(keys)
	for key := range keys {
		if stored[key] != 1 {
			t.Errorf("message %s was acknowledged, and is stored %d times", key, stored[key])
		}
	}
	t.Logf("%d messages by %d programs", sent.Load(), ours+pahos)
}

// listenAfter starts a server at an address as soon as another one has left it.
func listenAfter(t *testing.T, dsn, addr string) *apptest.App {
	t.Helper()
	apptest.Eventually(t, addr+" is free", func() bool {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return false
		}
		_ = l.Close()
		return true
	})
	return apptest.StartOn(t, dsn, func(o *app.Options) { o.MQTTAddr, o.Node = addr, "after" })
}
