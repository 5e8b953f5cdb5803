package app_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/seedtest"
	"github.com/parleymq/parley/store/storetest"
)

// kept is a CONNECT of a device whose session survives: for an hour in MQTT 5.
func kept(clientID string, version byte) brokertest.Connect {
	o := brokertest.Connect{ClientID: clientID, Version: version, Persistent: true}
	if version == 5 {
		o.SessionExpiry = 3600
	}
	return o
}

// device connects without AutoAck and checks session present.
func device(t *testing.T, a *apptest.App, u apptest.User, o brokertest.Connect, present bool) *apptest.Device {
	t.Helper()
	c := a.Dial(t)
	if ack := c.MustConnect(u.As(o)); ack.SessionPresent != present {
		t.Fatalf("device %q: session present = %v, want %v", o.ClientID, ack.SessionPresent, present)
	}
	return apptest.NewDevice(t, c, u)
}

// sql runs a statement behind the server's back.
func sql(t testing.TB, a *apptest.App, text string, args ...any) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, a.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if _, err := c.Exec(ctx, text, args...); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
}

// number is the one number that a query returns.
func number(t testing.TB, a *apptest.App, text string, args ...any) (n int64) {
	t.Helper()
	ctx := context.Background()
	c, err := pgx.Connect(ctx, a.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	if err := c.QueryRow(ctx, text, args...).Scan(&n); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		t.Fatalf("%s: %v", text, err)
	}
	return n
}

// fill appends n messages of the sender to a conversation behind the server's back,
// as if another node had taken them: who is not connected finds them in the log.
func fill(t testing.TB, a *apptest.App, c apptest.Conv, sender apptest.User, n int) {
	t.Helper()
	sql(t, a, `
WITH moved AS (
  UPDATE conversations SET last_seq = last_seq + $3, last_xid = pg_current_xact_id(), last_event_at = greatest(last_event_at, clock_timestamp()) WHERE id = $1
  RETURNING id, last_seq - $3 AS base, last_event_at AS at
)
INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content)
SELECT id, base + i, gen_random_uuid(), $2, gen_random_uuid(), at, 'message', 'message ' || base + i FROM moved, generate_series(1, $3) AS i`,
		c.ID(), sender.ID, n)
}

// ack answers a packet of the server's with the first half of its acknowledgement,
// or the second.
func ack(d *apptest.Device, kind byte, id uint16) {
	d.SendBytes([]byte{kind << 4, 2, byte(id >> 8), byte(id)})
}

// again checks that the next packet is one that was sent on an earlier connection.
func again(t *testing.T, d *apptest.Device, c apptest.Conv, seq int64, first packets.Packet) {
	t.Helper()
	pk := d.ExpectEvent(c, seq).Packet
	if pk.PacketID != first.PacketID || !pk.FixedHeader.Dup || pk.FixedHeader.Qos != first.FixedHeader.Qos {
		t.Errorf("event %d came again as %s, want packet %d with DUP", seq, brokertest.Describe(pk), first.PacketID)
	}
}

// Session present is true exactly when the session is there.
func TestSessionPresent(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			u, other := a.User(t, "u"), a.User(t, "other")
			clean := brokertest.Connect{ClientID: "d", Version: v}
			cleanKept := clean
			cleanKept.SessionExpiry = 3600
			none := kept("d", v)
			none.SessionExpiry = 0
			bye := func(d *apptest.Device, expiry ...uint32) {
				t.Helper()
				pk := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}}
				if len(expiry) > 0 {
					pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = expiry[0], true
				}
				d.Client.Send(pk)
				d.ExpectClosed()
			}
			bye(device(t, a, u, kept("d", v), false))
			bye(device(t, a, u, kept("d", v), true))
			bye(device(t, a, u, kept("D", v), false))
			bye(device(t, a, other, kept("d", v), false))
			device(t, a, u, kept("d", v), true).Close() // a cut line
			bye(device(t, a, u, kept("d", v), true))
			bye(device(t, a, u, clean, false)) // and leaves nothing
			bye(device(t, a, u, kept("d", v), false))
			if v == 5 {
				bye(device(t, a, u, cleanKept, false))
				bye(device(t, a, u, kept("d", v), true))
				bye(device(t, a, u, none, true)) // resumed, and not kept
				bye(device(t, a, u, none, false))
				bye(device(t, a, u, kept("d", v), false), 0) // ended by DISCONNECT
				bye(device(t, a, u, kept("d", v), false), 7)
				bye(device(t, a, u, kept("d", v), true), 7200)
				d := device(t, a, u, none, true)
				d.Client.Send(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Disconnect}, Properties: packets.Properties{SessionExpiryInterval: 5, SessionExpiryIntervalFlag: true}})
				d.ExpectDisconnect(packets.ErrProtocolViolation.Code)
				bye(device(t, a, u, kept("d", v), false))
				short := kept("d", v)
				short.SessionExpiry = 1
				bye(device(t, a, u, short, true))
				sql(t, a, `UPDATE sessions SET expires_at = expires_at - interval '1 s' WHERE user_id = $1`, u.ID) // a second later
				bye(device(t, a, u, kept("d", v), false))
			}
			sql(t, a, `UPDATE sessions SET expires_at = now() WHERE user_id = $1`, u.ID)
			if v == 5 {
				bye(device(t, a, u, kept("d", v), false))
			} else {
				bye(device(t, a, u, kept("d", v), false))
				device(t, a, u, clean, false).Close()
				bye(device(t, a, u, kept("d", v), false))
			}
			bye(device(t, a, other, kept("d", v), true))
		})
	}
}

// A session is there after the server has stopped, or died without a word; after
// that it was kept for as long as it was to be.
func TestSessionAcrossServers(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	u, peer := a.User(t, "u"), a.User(t, "peer")
	c := a.Direct(t, u, peer)
	d := device(t, a, u, kept("d", 5), false)
	d.MustSubscribe(1, "conv/+/messages")
	sender := a.Device(t, peer, brokertest.Connect{ClientID: "sender"})
	for i := range 4 {
		sender.Send(c, fmt.Sprint(i))
	}
	var first []packets.Packet
	for seq := range int64(4) {
		first = append(first, d.ExpectEvent(c, seq+2).Packet)
	}
	ack(d, packets.Puback, first[0].PacketID)
	ack(d, packets.Puback, first[2].PacketID)
	d.Ping()
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.ExpectDisconnect(packets.ErrServerShuttingDown.Code)
	fill(t, a, c, peer, 2)

	b := apptest.StartOn(t, dsn)
	d = device(t, b, u, kept("d", 5), true)
	again(t, d, c, 3, first[1])
	again(t, d, c, 5, first[3])
	for seq := int64(6); seq <= 7; seq++ {
		if pk := d.ExpectEvent(c, seq).Packet; pk.FixedHeader.Dup {
			t.Errorf("event %d came with DUP for the first time", seq)
		} else {
			first = append(first, pk)
		}
	}
	for _, pk := range first[1:] {
		ack(d, packets.Puback, pk.PacketID)
	}
	d.Ping()

	b.Crash(t)
	next := apptest.StartOn(t, dsn)
	fill(t, next, c, peer, 3)
	d2 := device(t, next, u, kept("d", 5), true)
	e := d2.Event()
	if e.Seq != 8 && e.Seq > 3 { // a second's worth of acknowledgements may not have been saved
		t.Fatalf("after a crash the log goes on at %d, want 8 or before", e.Seq)
	}
	for seq := e.Seq + 1; seq <= 10; seq++ {
		e = d2.ExpectEvent(c, seq)
	}
	for _, pk := range first {
		if e.Packet.PacketID == pk.PacketID {
			t.Errorf("packet identifier %d was used again", pk.PacketID)
		}
	}
	d.Close()
	d2.Ping()
}

// What was on its way comes again: with its packet identifier, DUP, in order, and
// before anything new; of QoS 2 that half which is due. A smaller Receive Maximum
// holds for it too.
func TestResumeInflight(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		for _, small := range []bool{false, true} {
			if small && v == 4 {
				continue
			}
			t.Run(fmt.Sprintf("%s small=%v", versionName(v), small), func(t *testing.T) {
				t.Parallel()
				u, peer := a.User(t, "u"), a.User(t, "peer")
				one, two := a.Direct(t, u, peer), a.Group(t, peer, u)
				d := device(t, a, u, kept("d", v), false)
				d.MustSubscribe(1, one.Topic("messages"))
				d.MustSubscribe(2, two.Topic("messages"))
				sender := a.Device(t, peer, brokertest.Connect{ClientID: "sender"})
				// Sent: one 2 3 4 at QoS 1 and two 2 … 6 at QoS 2, in turn.
				var ones, twos []packets.Packet
				for i := range 5 {
					if i < 3 {
						sender.Send(one, "x")
						ones = append(ones, d.ExpectEvent(one, int64(i+2)).Packet)
					}
					sender.Send(two, "y")
					twos = append(twos, d.ExpectEvent(two, int64(i+2)).Packet)
				}
				ack(d, packets.Puback, ones[1].PacketID) // and the others not
				ack(d, packets.Pubrec, twos[1].PacketID) // PUBREL out, PUBCOMP due
				d.Expect(packets.Pubrel)
				ack(d, packets.Pubrec, twos[3].PacketID) // done
				d.Expect(packets.Pubrel)
				ack(d, packets.Pubcomp, twos[3].PacketID)
				d.Ping()
				d.Close()
				fill(t, a, one, peer, 2)

				o := kept("d", v)
				if small {
					o.ReceiveMaximum = 1
				}
				d = device(t, a, u, o, true)
				step := func() {
					t.Helper()
					if small {
						d.Ping() // no more before this is acknowledged
					}
				}
				again(t, d, one, 2, ones[0])
				step()
				if small {
					ack(d, packets.Puback, ones[0].PacketID)
				}
				finish := func(pk packets.Packet, released bool) {
					t.Helper()
					if !small {
						return
					}
					if !released {
						ack(d, packets.Pubrec, pk.PacketID)
						if rel := d.Expect(packets.Pubrel); rel.PacketID != pk.PacketID {
							t.Errorf("got %s", brokertest.Describe(rel))
						}
					}
					ack(d, packets.Pubcomp, pk.PacketID)
				}
				again(t, d, two, 2, twos[0])
				step()
				finish(twos[0], false)
				if rel := d.Expect(packets.Pubrel); rel.PacketID != twos[1].PacketID {
					t.Errorf("got %s, want it for %d", brokertest.Describe(rel), twos[1].PacketID)
				}
				step()
				finish(twos[1], true)
				again(t, d, one, 4, ones[2])
				step()
				if small {
					ack(d, packets.Puback, ones[2].PacketID)
				}
				again(t, d, two, 4, twos[2])
				step()
				finish(twos[2], false)
				again(t, d, two, 6, twos[4])
				step()
				finish(twos[4], false)
				for seq := int64(5); seq <= 6; seq++ {
					pk := d.ExpectEvent(one, seq).Packet
					if pk.FixedHeader.Dup || slices.ContainsFunc(append(ones, twos...), func(p packets.Packet) bool { return p.PacketID == pk.PacketID }) {
						t.Errorf("got %s as something new", brokertest.Describe(pk))
					}
					if small {
						step()
						ack(d, packets.Puback, pk.PacketID)
					}
				}
				d.Ping()
			})
		}
	}
}

// A member who was put out of a conversation while away gets nothing of it any
// more, also not what was on its way; what one came into while away begins where
// one came in; and what is removed keeps nothing else from coming, or from being
// saved.
func TestMembershipWhileAway(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u, peer := a.User(t, "u"), a.User(t, "peer")
	left, stays := a.Group(t, peer, u), a.Group(t, peer, u)
	d := device(t, a, u, kept("d", 5), false)
	d.MustSubscribe(1, "conv/+/messages")
	sender := a.Device(t, peer, brokertest.Connect{ClientID: "sender"})
	for seq := int64(2); seq <= 4; seq++ {
		sender.Send(left, "secret")
		d.ExpectEvent(left, seq)
	}
	sender.Send(stays, "x")
	first := d.ExpectEvent(stays, 2).Packet
	d.Close()
	sql(t, a, `DELETE FROM participants WHERE conversation_id = $1 AND user_id = $2`, left.ID(), u.ID)
	sql(t, a, `UPDATE conversations SET members_version = members_version + 1 WHERE id = $1`, left.ID())
	fill(t, a, left, peer, 5)
	fill(t, a, stays, peer, 2)
	joined := a.Group(t, peer)
	fill(t, a, joined, peer, 20)
	sql(t, a, `INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq) VALUES ($1, $2, 'member', now(), 16)`, joined.ID(), u.ID)
	sql(t, a, `UPDATE conversations SET members_version = members_version + 1 WHERE id = $1`, joined.ID())
	made := a.Direct(t, peer, u)
	sender.Send(made, "hello")

	d = device(t, a, u, kept("d", 5), true)
	next := map[apptest.Conv]int64{stays: 3, joined: 16, made: 1}
	again(t, d, stays, 2, first)
	ack(d, packets.Puback, first.PacketID)
	for range 2 + 6 + 2 {
		e := d.Event()
		if next[e.ConversationID] != e.Seq || e.Packet.FixedHeader.Dup {
			t.Fatalf("got event %d of %s, want %d", e.Seq, e.ConversationID, next[e.ConversationID])
		}
		next[e.ConversationID]++
		ack(d, packets.Puback, e.Packet.PacketID)
	}
	sender.Send(left, "more secrets")
	d.Ping()
	// The several packets of the conversation that is gone were each saved as its
	// place, in one statement, which PostgreSQL refused from then on.
	apptest.Eventually(t, "cursors are saved", func() bool {
		return number(t, a, `SELECT count(*) FROM session_cursors WHERE conversation_id = ANY($1) AND seq > 1`, []string{string(stays), string(joined), string(made)}) == 3
	})
}

// What a device holds at QoS 2 of a group that its user has left meanwhile is released when it
// is back; nothing else may come under that packet identifier before.
func TestWhatWasLeftIsReleased(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			u, peer := a.User(t, "u"), a.User(t, "peer")
			c := a.Group(t, peer, u)
			d := device(t, a, u, kept("d", v), false)
			d.MustSubscribe(2, "conv/+/messages")
			sender := a.Device(t, peer, brokertest.Connect{ClientID: "sender"})
			sender.Send(c, "one")
			sender.Send(c, "two")
			lost, held := d.ExpectEvent(c, 2).Packet, d.ExpectEvent(c, 3).Packet
			ack(d, packets.Pubrec, held.PacketID)
			d.Expect(packets.Pubrel)
			d.Close()
			remove(t, a, peer, c, u)

			d = device(t, a, u, kept("d", v), true)
			for _, pk := range []packets.Packet{lost, held} {
				if got := d.Expect(packets.Pubrel); got.PacketID != pk.PacketID {
					t.Errorf("got %s, want PUBREL of %d", brokertest.Describe(got), pk.PacketID)
				}
				ack(d, packets.Pubcomp, pk.PacketID)
			}
			d.Ping()
		})
	}
}

// What a session subscribes to survives as it was changed last.
func TestSubscriptionsSurvive(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, v := range versions {
		t.Run(versionName(v), func(t *testing.T) {
			t.Parallel()
			u, peer := a.User(t, "u"), a.User(t, "peer")
			one, two := a.Direct(t, u, peer), a.Group(t, peer, u)
			o := kept("d", v)
			seqs := map[apptest.Conv]int64{one: 1, two: 1}
			post := func(c apptest.Conv) { fill(t, a, c, peer, 1); seqs[c]++ }
			expect := func(d *apptest.Device, c apptest.Conv, qos byte) {
				t.Helper()
				pk := d.ExpectEvent(c, seqs[c]).Packet
				if pk.FixedHeader.Qos != qos || pk.FixedHeader.Dup {
					t.Errorf("got %s, want QoS %d", brokertest.Describe(pk), qos)
				}
				switch qos {
				case 1:
					ack(d, packets.Puback, pk.PacketID)
				case 2:
					ack(d, packets.Pubrec, pk.PacketID)
					d.Expect(packets.Pubrel)
					ack(d, packets.Pubcomp, pk.PacketID)
				}
				d.Ping()
			}
			// away does what happens while the device is away, and brings it back.
			away := func(d *apptest.Device, f func()) *apptest.Device {
				t.Helper()
				d.Disconnect()
				f()
				return device(t, a, u, o, true)
			}
			d := device(t, a, u, o, false)
			d.MustSubscribe(1, one.Topic("messages"))
			d = away(d, func() { post(two); post(one) })
			expect(d, one, 1) // and nothing of two

			d.MustSubscribe(2, one.Topic("messages")) // in place of the other
			d.MustSubscribe(0, "conv/#")              // from here on
			d = away(d, func() { post(two) })
			expect(d, two, 0)
			d = away(d, func() { post(one) })
			expect(d, one, 2)

			d.Unsubscribe(one.Topic("messages"), "no such filter")
			d = away(d, func() { post(one) })
			expect(d, one, 0)
			d.Unsubscribe("conv/#")
			d = away(d, func() { post(one); post(two) })
			d.Ping()
			d.MustSubscribe(1, two.Topic("#"))
			d = away(d, func() { post(one); post(two) })
			expect(d, two, 1)
			d.MustSubscribe(1, two.Topic("#"), "conv/+/messages")
			d = away(d, func() { post(two) })
			expect(d, two, 1)
			d = away(d, func() { post(one) })
			expect(d, one, 1)

			// Subscribing again on resume, as many clients do, skips and repeats nothing.
			for _, filter := range []string{two.Topic("#"), "conv/+/messages"} {
				d.Disconnect()
				post(two)
				d = device(t, a, u, o, true)
				d.MustSubscribe(1, filter)
				pk := d.Await(packets.Publish)
				if e := apptest.EventOf(t, pk); e.ConversationID != two || e.Seq != seqs[two] {
					t.Fatalf("got event %d of %s, want %d of %s", e.Seq, e.ConversationID, seqs[two], two)
				}
				ack(d, packets.Puback, pk.PacketID)
				d.Ping()
			}
		})
	}
}

// A conversation that is subscribed to anew begins at its end, although the place
// of the first time was about to be saved when it was given up; and a device that
// does so costs nobody the saving of places.
func TestSubscribeAnew(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	for _, filter := range []string{"conv/+/messages", ""} {
		u, peer := a.User(t, "u"), a.User(t, "peer")
		c := a.Direct(t, u, peer)
		if filter == "" {
			filter = c.Topic("messages")
		}
		cursor := func() int64 {
			return number(t, a, `SELECT seq FROM session_cursors k JOIN sessions s ON s.id = k.session_id WHERE conversation_id = $1 AND user_id = $2`, c.ID(), u.ID)
		}
		d := device(t, a, u, kept("d", 5), false)
		sender := a.Device(t, peer, brokertest.Connect{ClientID: "sender"})
		seq := int64(1)
		for range 3 {
			d.MustSubscribe(1, filter)
			sender.Send(c, "x")
			seq++
			ack(d, packets.Puback, d.ExpectEvent(c, seq).Packet.PacketID)
			d.Ping()
			d.Unsubscribe(filter)
			sender.Send(c, "unheard")
			seq++
		}
		d.MustSubscribe(1, filter)
		sender.Send(c, "x")
		seq++
		ack(d, packets.Puback, d.ExpectEvent(c, seq).Packet.PacketID)
		apptest.Eventually(t, "the cursor is saved", func() bool { return cursor() == seq })
		d.Unsubscribe(filter)
		sender.Send(c, "unheard")
		d.MustSubscribe(1, filter)
		d.Disconnect()
		d = device(t, a, u, kept("d", 5), true)
		sender.Send(c, "heard")
		seq += 2
		d.ExpectEvent(c, seq)
		d.Ping()
	}
}

// At QoS 0 a place moves as it is proved that events were received, but not past those of
// QoS 1 that are still on their way: a crash would lose them.
func TestQoS0DoesNotOvertake(t *testing.T) {
	t.Parallel()
	dsn := storetest.DSN(t)
	a := apptest.StartOn(t, dsn)
	u, peer := a.User(t, "u"), a.User(t, "peer")
	c, other := a.Direct(t, u, peer), a.Group(t, peer, u)
	d := device(t, a, u, kept("d", 5), false)
	d.MustSubscribe(1, "conv/+/messages")
	sender := a.Device(t, peer, brokertest.Connect{ClientID: "sender"})
	for seq := int64(2); seq <= 3; seq++ {
		sender.Send(c, "x")
		d.ExpectEvent(c, seq)
	}
	d.MustSubscribe(0, "conv/+/messages")
	for seq := int64(4); seq <= 5; seq++ {
		sender.Send(c, "x")
		d.ExpectEvent(c, seq)
	}
	sender.Send(other, "x")
	d.ExpectEvent(other, 2)
	d.Ping()
	d.Ping() // who has had the answer to the first had all before it
	apptest.Eventually(t, "cursors are saved", func() bool {
		return number(t, a, `SELECT count(*) FROM session_cursors WHERE conversation_id = $1 AND seq = 2`, other.ID()) == 1
	})
	a.Crash(t)
	b := apptest.StartOn(t, dsn)
	d2 := device(t, b, u, kept("d", 5), true)
	for seq := int64(2); seq <= 5; seq++ {
		d2.ExpectEvent(c, seq)
	}
	d2.Ping()
}

// More sessions than a user may have: those away for longest are forgotten, and
// none that is connected.
func TestTooManySessions(t *testing.T) {
	t.Parallel()
	var logged logBuffer
	a := apptest.Start(t, func(o *app.Options) { o.Logger = slog.New(slog.NewJSONHandler(&logged, nil)) })
	u := a.User(t, "u")
	stays := device(t, a, u, kept("stays", 5), false)
	for i := range chat.MaxUserSessions + 5 {
		device(t, a, u, kept(fmt.Sprint(i), 5), false).Disconnect()
	}
	if n := number(t, a, `SELECT count(*) FROM sessions WHERE user_id = $1`, u.ID); n != chat.MaxUserSessions+1 {
		t.Errorf("%d sessions are stored, want %d and the one connected", n, chat.MaxUserSessions)
	}
	if lines := logged.lines(t, "kept session forgotten: its user has as many as they may"); len(lines) != 5 || lines[0]["client_id"] != "0" {
		t.Errorf("logged %v", lines)
	}
	if metrics := a.Metrics(t); !strings.Contains(metrics, "parley_delivery_forgotten_sessions_total 5\n") {
		t.Error("the metrics do not count the sessions that were forgotten")
	}
	device(t, a, u, kept("50", 5), true).Disconnect()
	stays.Disconnect()
	device(t, a, u, kept("stays", 5), true).Disconnect()
	device(t, a, u, kept("0", 5), false).Disconnect()
}

// stream sends messages to conversations until it is stopped, from goroutines of
// its own, at a pace that leaves the machine to others.
type stream struct {
	t    *testing.T
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	last map[apptest.Conv]int64 // mu guards: acknowledged
}

func newStream(t *testing.T, a *apptest.App, sender apptest.User, pause time.Duration, convs ...apptest.Conv) *stream {
	t.Helper()
	s := &stream{t: t, last: map[apptest.Conv]int64{}}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(t.Context())
	d := a.Device(t, sender, brokertest.Connect{ClientID: "stream-" + chat.NewID().String()})
	random := seedtest.New(seedtest.Seed(t), 0)
	s.wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			c := convs[random.IntN(len(convs))]
			b := d.Encode(brokertest.Publish(c.Topic("messages"), 1, uint16(i%60000+1), "live"))
			if err := d.Write(b); err != nil {
				t.Error("stream:", err)
				return
			}
			pk, err := d.Recv(brokertest.Patience)
			if err != nil || pk.FixedHeader.Type != packets.Puback || pk.ReasonCode != 0 {
				t.Errorf("stream: got %s, %v", brokertest.Describe(pk), err)
				return
			}
			s.mu.Lock()
			s.last[c] = brokertest.AckOf(pk).Seq
			s.mu.Unlock()
			select {
			case <-time.After(time.Duration(random.Int64N(int64(pause)))):
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(func() { s.stop(); s.wg.Wait() })
	return s
}

// end stops the stream and returns how far it has come.
func (s *stream) end() map[apptest.Conv]int64 {
	s.stop()
	s.wg.Wait()
	return s.last
}

// follower checks what one session receives over all its connections: each
// conversation in order, without a gap, and repeats with DUP only.
type follower struct {
	last map[apptest.Conv]int64
	dups int
}

func (f *follower) take(pk packets.Packet) error {
	if pk.FixedHeader.Type != packets.Publish {
		return fmt.Errorf("got %s", brokertest.Describe(pk))
	}
	var e apptest.Event
	if err := e.Read(pk); err != nil {
		return err
	}
	switch last := f.last[e.ConversationID]; {
	case e.Seq == last+1:
		f.last[e.ConversationID] = e.Seq
	case e.Seq > last:
		return fmt.Errorf("event %d of %s came after %d", e.Seq, e.ConversationID, last)
	case !pk.FixedHeader.Dup:
		return fmt.Errorf("event %d of %s came again without DUP, after %d", e.Seq, e.ConversationID, last)
	default:
		f.dups++
	}
	return nil
}

// until receives until everything up to want is there.
func (f *follower) until(t *testing.T, d *apptest.Device, want map[apptest.Conv]int64) {
	t.Helper()
	for {
		level := true
		for c, seq := range want {
			level = level && f.last[c] >= seq
		}
		if level {
			return
		}
		pk, err := d.Recv(brokertest.Patience)
		if err == nil {
			err = f.take(pk)
		}
		if err != nil {
			t.Fatalf("%v (at %v, want %v)", err, f.last, want)
		}
	}
}

// Catching up meets live traffic while the line is cut again and again: no gap, no
// disorder, and nothing twice without DUP.
func TestResumeWhileMessagesFlow(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	seed := seedtest.Seed(t)
	for i, qos := range []byte{1, 2, 1} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			random := seedtest.New(seed, i)
			u, peer := a.User(t, "u"), a.User(t, "peer")
			var convs []apptest.Conv
			f := follower{last: map[apptest.Conv]int64{}}
			for range 3 {
				c := a.Group(t, peer, u)
				convs = append(convs, c)
				f.last[c] = 1
			}
			o := kept("d", versions[i%2])
			d := device(t, a, u, o, false)
			d.MustSubscribe(qos, "conv/+/messages")
			d.Close()
			s := newStream(t, a, peer, 4*time.Millisecond, convs...)
			for range 12 {
				if random.IntN(3) == 0 {
					fill(t, a, convs[random.IntN(3)], peer, random.IntN(150))
				}
				o.ReceiveMaximum = 0
				if o.Version == 5 {
					o.ReceiveMaximum = uint16(random.IntN(20) + 1)
				}
				d = device(t, a, u, o, true)
				d.AutoAck = true
				for n := random.IntN(300); n > 0; n-- {
					pk, err := d.Recv(time.Duration(random.IntN(20)) * time.Millisecond)
					if errors.Is(err, os.ErrDeadlineExceeded) {
						break
					}
					if err == nil {
						err = f.take(pk)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				d.Close() // sometimes the next connection is there before this is noticed
			}
			want := s.end()
			for _, c := range convs {
				want[c] = a.LastSeq(t, u, c)
			}
			o.ReceiveMaximum = 0
			d = device(t, a, u, o, true)
			d.AutoAck = true
			f.until(t, d, want)
			d.Ping()
			t.Logf("%d came again", f.dups)
		})
	}
}

// A device that connects twice, or sixty times at once, has one connection left:
// the one that was accepted last. The others are told so, and nothing is lost in
// between.
func TestTakeOverWhileMessagesFlow(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u, peer := a.User(t, "u"), a.User(t, "peer")
	c := a.Direct(t, u, peer)
	d := device(t, a, u, kept("d", 5), false)
	d.MustSubscribe(1, "conv/+/messages")
	f := follower{last: map[apptest.Conv]int64{c: 1}}
	s := newStream(t, a, peer, 4*time.Millisecond, c)
	for range 20 {
		next := device(t, a, u, kept("d", 5), true)
		for { // what the old connection still had counts, as it was sent first
			pk, err := d.Recv(brokertest.Patience)
			if err != nil {
				t.Fatal("no DISCONNECT:", err)
			}
			if pk.FixedHeader.Type == packets.Disconnect {
				if pk.ReasonCode != packets.ErrSessionTakenOver.Code {
					t.Errorf("got %s", brokertest.Describe(pk))
				}
				break
			}
			if err := f.take(pk); err != nil {
				t.Fatal(err)
			}
		}
		d.ExpectClosed()
		d = next
		d.AutoAck = true
		f.until(t, d, map[apptest.Conv]int64{c: f.last[c] + 2})
	}

	const n = 60
	type end struct {
		c    *brokertest.Client
		code byte
		err  error
	}
	ends := make(chan end, n)
	var mu sync.Mutex
	got := map[int64]bool{} // by any of them
	for range n {
		c := a.Dial(t)
		go func() { // ends with the connection, or when nothing more comes
			e := end{c: c, err: c.Write(c.Encode(u.As(kept("d", 5)).Packet()))}
			c.AutoAck = true
			last, patience := int64(0), brokertest.Patience
			for e.err == nil && e.code == 0 {
				var pk packets.Packet
				var event apptest.Event
				pk, e.err = c.Recv(patience)
				switch {
				case e.err != nil:
				case pk.FixedHeader.Type == packets.Disconnect:
					e.code = pk.ReasonCode
				case pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == 0 && pk.SessionPresent:
					patience = 3 * time.Second
				case pk.FixedHeader.Type == packets.Publish && event.Read(pk) == nil && (last == 0 || event.Seq == last+1):
					last = event.Seq
					mu.Lock()
					got[last] = true
					mu.Unlock()
				default:
					e.err = fmt.Errorf("after event %d: %s", last, brokertest.Describe(pk))
				}
			}
			ends <- e
		}()
	}
	var stays []*brokertest.Client
	var want int64
	for i := range n {
		if i == n-1 {
			want = s.end()[c] // now it is quiet for the one that stays
		}
		switch e := <-ends; {
		case e.code == packets.ErrSessionTakenOver.Code:
		case errors.Is(e.err, os.ErrDeadlineExceeded):
			stays = append(stays, e.c)
		case errors.Is(e.err, io.EOF): // taken over before CONNACK, so without a word
		default:
			t.Errorf("a connection ended with 0x%02x, %v", e.code, e.err)
		}
	}
	if len(stays) != 1 {
		t.Fatalf("%d connections are left, want 1", len(stays))
	}
	for seq := f.last[c] + 1; seq <= want; seq++ {
		if !got[seq] {
			t.Errorf("event %d came to none of the connections", seq)
		}
	}
	last := apptest.NewDevice(t, stays[0], u)
	seq := a.Device(t, peer, brokertest.Connect{ClientID: "sender"}).Send(c, "last").Seq
	if e := last.Event(); e.Seq != seq {
		t.Errorf("the one that stays got event %d, want %d", e.Seq, seq)
	}
	last.Ping()
	last.Disconnect()
	d = device(t, a, u, kept("d", 5), true)
	d.Ping()
}
