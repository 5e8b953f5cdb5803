package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/autopaho"
	"github.com/eclipse/paho.golang/paho"
	pahov3 "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"
	"github.com/google/uuid"

	"github.com/parleymq/parley/programtest"
)

// The clients of the matrix that need no program of their own.

func (s seat) url() string {
	if s.transport == "ws" {
		return "ws://" + s.line.host + ":" + s.line.port + "/mqtt"
	}
	return "mqtt://" + s.line.host + ":" + s.line.port
}

// startAutopaho is paho.golang, for MQTT 5.
func startAutopaho(t *testing.T, s seat) *partner {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	u, err := url.Parse(s.url())
	if err != nil {
		t.Fatal(err)
	}
	p := &partner{news: make(chan struct{})}
	var work sync.WaitGroup
	cm, err := autopaho.NewConnection(ctx, autopaho.ClientConfig{
		ServerUrls: []*url.URL{u}, KeepAlive: 30, SessionExpiryInterval: 3600, ConnectPassword: []byte(s.token),
		ReconnectBackoff: func(int) time.Duration { return 100 * time.Millisecond },
		OnConnectionUp: func(cm *autopaho.ConnectionManager, ack *paho.Connack) {
			present := "0"
			if ack.SessionPresent {
				present = "1"
			}
			p.heard("connected " + present)
			if ack.SessionPresent {
				return
			}
			work.Go(func() { // ends with ctx
				if _, err := cm.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: s.topic, QoS: byte(s.qos)}}}); err == nil {
					p.heard("subscribed")
				}
			})
		},
		OnConnectionDown: func() bool { p.heard("down"); return true },
		ClientConfig: paho.ClientConfig{
			ClientID: s.clientID,
			OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(r paho.PublishReceived) (bool, error) {
				p.heard("message " + string(r.Packet.Payload))
				return true, nil
			}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	texts := make(chan string, 100)
	work.Go(func() { // ends with texts; one after the other, so that they keep their order
		for text := range texts {
			command, _ := json.Marshal(map[string]string{"content": text, "clientMsgId": uuid.NewString()})
			for ctx.Err() == nil {
				// Without a connection Publish fails at once; one whose answer is lost is sent again,
				// and stored once for its clientMsgId.
				if cm.AwaitConnection(ctx) != nil {
					return
				}
				once, done := context.WithTimeout(ctx, 5*time.Second)
				_, err := cm.Publish(once, &paho.Publish{Topic: s.topic, QoS: byte(s.qos), Payload: command})
				done()
				if err == nil {
					p.heard("acked " + text)
					break
				}
			}
		}
	})
	end := sync.OnceValue(func() error {
		close(texts)
		err := cm.Disconnect(ctx)
		<-cm.Done()
		cancel()
		work.Wait()
		return err
	})
	t.Cleanup(func() { cancel(); _ = end() })
	p.send, p.quit = func(text string) { texts <- text }, end
	return p
}

// startPahoV3 is paho.mqtt.golang, for MQTT 3.1.1.
func startPahoV3(t *testing.T, s seat) *partner {
	p := &partner{news: make(chan struct{})}
	o := pahov3.NewClientOptions().AddBroker(s.url()).SetClientID(s.clientID).SetUsername("whoever").SetPassword(s.token).
		SetProtocolVersion(4).SetCleanSession(false).SetKeepAlive(30 * time.Second).SetMaxReconnectInterval(200 * time.Millisecond)
	var subscribed atomic.Bool
	o.OnConnect = func(c pahov3.Client) { // on a goroutine of its own for each connection
		p.heard("connected ?")
		if !subscribed.Swap(true) { // it does not tell whether the session was there
			token := c.Subscribe(s.topic, byte(s.qos), nil)
			if token.Wait() && token.Error() == nil {
				p.heard("subscribed")
			}
		}
	}
	o.OnConnectionLost = func(pahov3.Client, error) { p.heard("down") }
	o.DefaultPublishHandler = func(_ pahov3.Client, m pahov3.Message) { p.heard("message " + string(m.Payload())) }
	o.Store = &ackStore{Store: pahov3.NewMemoryStore(), acked: func(text string) { p.heard("acked " + text) }, texts: map[string]string{}}
	c := pahov3.NewClient(o)
	if token := c.Connect(); !token.WaitTimeout(patience) || token.Error() != nil {
		t.Fatal(token.Error())
	}
	p.send = func(text string) { c.Publish(s.topic, byte(s.qos), false, text) } // kept while the line is down
	p.quit = sync.OnceValue(func() error { c.Disconnect(250); return nil })
	t.Cleanup(func() { _ = p.quit() })
	return p
}

// ackStore tells which publishes are acknowledged: those that are not kept any more. The
// token of one that is sent again on another connection never completes.
type ackStore struct {
	pahov3.Store
	acked func(text string)

	mu    sync.Mutex
	texts map[string]string // mu guards: of publishes that are kept
}

// Put keeps a packet.
func (s *ackStore) Put(key string, p packets.ControlPacket) {
	if pub, ok := p.(*packets.PublishPacket); ok && strings.HasPrefix(key, "o.") {
		s.mu.Lock()
		s.texts[key] = string(pub.Payload)
		s.mu.Unlock()
		// The library marks what is kept as DUP while its last connection may still write
		// the same packet: a data race of its own.
		own := *pub
		p = &own
	}
	s.Store.Put(key, p)
}

// Del forgets one.
func (s *ackStore) Del(key string) {
	s.mu.Lock()
	text, ok := s.texts[key]
	delete(s.texts, key)
	s.mu.Unlock()
	s.Store.Del(key)
	if ok {
		s.acked(text)
	}
}

// startMosquittoClients is mosquitto_sub, and a mosquitto_pub for each message: which, like
// somebody at a terminal, is started again until it has succeeded.
func startMosquittoClients(t *testing.T, s seat) *partner {
	pub, stdbuf := programtest.Path(t, "mosquitto_pub"), programtest.Path(t, "stdbuf")
	programtest.Path(t, "mosquitto_sub")
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	version := map[int]string{4: "311", 5: "5"}[s.version]
	common := []string{"-h", s.line.host, "-p", s.line.port, "-V", version, "-u", "whoever", "-P", s.token, "-q", strconv.Itoa(s.qos), "-t", s.topic}
	args := append([]string{"-oL", "mosquitto_sub", "-i", s.clientID, "-c", "-d"}, common...)
	if s.version == 5 {
		args = append(args, "-x", "3600")
	}
	p := &partner{news: make(chan struct{})}
	sub := exec.CommandContext(ctx, stdbuf, args...)
	up := false
	w := &lineWriter{copy: &syncBuffer{}, line: func(line string) {
		switch {
		case strings.Contains(line, "received CONNACK (0)"):
			up = true
			p.heard("connected ?")
		case strings.Contains(line, "sending CONNECT") && up: // again: it does not say that the line is down
			up = false
			p.heard("down")
		case strings.HasPrefix(line, "Subscribed ("):
			p.heard("subscribed")
		case strings.HasPrefix(line, "{"):
			p.heard("message " + line)
		}
	}}
	sub.Stdout, sub.Stderr = w, w
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	texts := make(chan string, 100)
	var work sync.WaitGroup
	work.Go(func() { // ends with texts
		for text := range texts {
			command, _ := json.Marshal(map[string]string{"content": text, "clientMsgId": uuid.NewString()})
			for ctx.Err() == nil {
				if exec.CommandContext(ctx, pub, append(common, "-m", string(command))...).Run() == nil {
					p.heard("acked " + text)
					break
				}
				time.Sleep(100 * time.Millisecond) // it is somebody at a terminal
			}
		}
	})
	p.send = func(text string) { texts <- text }
	p.quit = sync.OnceValue(func() error {
		close(texts)
		work.Wait()
		_ = sub.Process.Signal(os.Interrupt) // it says DISCONNECT
		if err := sub.Wait(); err != nil {
			return fmt.Errorf("mosquitto_sub: %w", err)
		}
		return nil
	})
	t.Cleanup(func() { cancel(); _ = p.quit() })
	return p
}
