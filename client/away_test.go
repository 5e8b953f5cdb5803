package client_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/client"
)

// When the server has forgotten the device, the client subscribes anew, and says that
// something may have been missed.
func TestSessionForgotten(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	l := newLine(t, a.MQTTAddr())
	got, connects := make(chan *client.Event, 10), make(chan client.Connection, 10)
	o := options(a, bob, "phone")
	o.MQTTURL, o.SessionExpiry = "mqtt://"+l.addr(), time.Second
	o.OnEvent, o.OnConnect = events(got), func(c client.Connection) { connects <- c }
	dial(t, o)
	sender := dial(t, options(a, ann, ""))
	expect(t, "a connection", connects)
	l.takeDown(true)
	<-time.After(3 * time.Second) // for the session to expire: nothing tells of it
	if _, err := sender.Send(patient(t), conv, client.Message{Content: "missed"}); err != nil {
		t.Fatal(err)
	}
	l.takeDown(false)
	if conn := expect(t, "a connection", connects); conn != (client.Connection{Reconnect: true}) {
		t.Errorf("the connection is %+v", conn)
	}
	if _, err := sender.Send(patient(t), conv, client.Message{Content: "heard"}); err != nil {
		t.Fatal(err)
	}
	if e := expect(t, "an event", got); e.Content != "heard" {
		t.Errorf("%q came", e.Content)
	}
}

// A handler that takes long holds up events, and nothing else: not what the client
// sends, nor the connection. Over several connections, each event comes in its turn.
func TestSlowHandler(t *testing.T) {
	t.Parallel()
	const n = 700
	a := apptest.Start(t)
	ann, bob := a.User(t, "ann"), a.User(t, "bob")
	conv := client.ID(a.Direct(t, ann, bob))
	l := newLine(t, a.MQTTAddr())
	began, goOn, got := make(chan struct{}, 1), make(chan struct{}), make(chan *client.Event, 2*n)
	connects := make(chan client.Connection, 10)
	o := options(a, bob, "phone")
	o.MQTTURL, o.OnConnect = "mqtt://"+l.addr(), func(c client.Connection) { connects <- c }
	o.OnEvent = func(ctx context.Context, e *client.Event) error {
		select {
		case began <- struct{}{}:
		default:
		}
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		return events(got)(ctx, e)
	}
	c := dial(t, o)
	expect(t, "a connection", connects)
	for i := range n {
		if _, err := c.Send(patient(t), conv, client.Message{Content: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
		if i == 300 || i == 500 {
			l.cut()
			expect(t, "a connection", connects)
		}
	}
	expect(t, "the handler", began)
	close(goOn)
	for i := range n {
		if e := expect(t, "an event", got); e.Content != fmt.Sprint(i) {
			t.Fatalf("%q came, want %d", e.Content, i)
		}
	}
	if len(got) != 0 {
		t.Errorf("%d events came twice", len(got))
	}
}
