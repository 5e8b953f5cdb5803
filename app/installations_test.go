package app_test

import (
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/cluster/redistest"
	"github.com/parleymq/parley/store/storetest"
)

// Staging has production's dump and, by mistake, its REDIS_URL. The same people are connected
// to both. Neither hears anything of the other, and each delivers its own, also when staging
// believes at first that production's node is one of its own.
func TestInstallationsApart(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	start := func(dsn, node string) *apptest.App {
		return apptest.StartOn(t, dsn, func(o *app.Options) { o.RedisURL, o.Node = redis.URL(), node })
	}
	dsn := storetest.DSN(t)
	production := start(dsn, "production")
	ann, bob := production.User(t, "ann"), production.User(t, "bob")
	conv := production.Direct(t, ann, bob)

	copied := storetest.EmptyDSN(t)
	storetest.Restore(t, copied, storetest.Dump(t, dsn))
	storetest.Exec(t, copied, `UPDATE nodes SET beat_at = clock_timestamp() + interval '1 hour' WHERE id IS NOT NULL`)
	staging := start(copied, "staging")

	type phones struct{ ann, bob *apptest.Device }
	connect := func(a *apptest.App) (p phones) {
		for _, v := range []struct {
			d *(*apptest.Device)
			u apptest.User
		}{{&p.ann, ann}, {&p.bob, bob}} {
			*v.d = a.Device(t, v.u, brokertest.Connect{ClientID: "phone"})
			(*v.d).MustSubscribe(1, "conv/#", "dev/#")
		}
		return p
	}
	own := map[string]phones{"production": connect(production), "staging": connect(staging)}
	for i := range 5 {
		seq := int64(i + 2)
		for name, p := range own {
			p.ann.Send(conv, "of "+name)
			p.ann.Publish(0, conv.Topic("typing"), `{"typing":true}`)
			for _, d := range []*apptest.Device{p.ann, p.bob} {
				if e := awaitEvent(t, d, conv, seq); e.Content != "of "+name {
					t.Errorf("%s received %q", name, e.Content)
				}
			}
			p.ann.Publish(1, "dev/lamp", "of "+name)
			if pk := awaitPublish(t, p.ann, "dev/lamp"); string(pk.Payload) != "of "+name {
				t.Errorf("a lamp of %s is told %q", name, pk.Payload)
			}
		}
	}
	for name, a := range map[string]*apptest.App{"production": production, "staging": staging} {
		if n := a.Peers(); n != 0 {
			t.Errorf("%s has %d other nodes, want none", name, n)
		}
		if last := a.LastSeq(t, ann, conv); last != 6 {
			t.Errorf("the log of %s ends at %d, want 6", name, last)
		}
	}

	// Their names in Redis have nothing in common.
	names := map[string]bool{}
	for _, a := range []*apptest.App{production, staging} {
		epoch, err := a.DB.Epoch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		names["parley:"+string(epoch)] = true
	}
	if len(names) != 2 {
		t.Errorf("both are called %v", names)
	}
	apptest.Eventually(t, "both have registered their users", func() bool { return len(redis.Do("KEYS", "*:user:*").([]any)) == 4 })
	for _, command := range [][]any{{"KEYS", "*"}, {"PUBSUB", "CHANNELS"}} {
		for _, key := range redis.Do(command...).([]any) {
			parts := strings.SplitN(key.(string), ":", 3)
			if len(parts) != 3 || !names[parts[0]+":"+parts[1]] {
				t.Errorf("%v has %q, which belongs to neither", command, key)
			}
		}
	}
}

// awaitPublish passes over everything but a publication on the topic.
func awaitPublish(t *testing.T, d *apptest.Device, topic string) packets.Packet {
	t.Helper()
	for {
		if pk := d.Await(packets.Publish); pk.TopicName == topic {
			return pk
		}
	}
}
