package apptest

import (
	"strings"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/asyncapi"
	"github.com/parleymq/parley/asyncapi/asyncapitest"
	"github.com/parleymq/parley/broker/brokertest"
)

var contract = sync.OnceValues(func() (*asyncapitest.Checker, error) {
	document, err := asyncapi.New("test").JSON()
	if err != nil {
		return nil, err
	}
	return asyncapitest.New(document)
})

// checked makes the client compare every payload that passes through it with the
// AsyncAPI document: what it receives, and what it sends and the server takes. A
// benchmark measures without.
func checked(t testing.TB, c *brokertest.Client) *brokertest.Client {
	t.Helper()
	if _, bench := t.(*testing.B); bench {
		return c
	}
	check, err := contract()
	if err != nil {
		t.Fatal("apptest: the AsyncAPI document:", err)
	}
	c.Check = func(received bool, pk packets.Packet) error {
		if !strings.HasPrefix(pk.TopicName, "conv/") && !strings.HasPrefix(pk.TopicName, "user/") {
			return nil
		}
		action := asyncapi.Publish
		if received {
			action = asyncapi.Receive
		}
		return check.Check(action, pk.TopicName, pk.Properties.ContentType, pk.Payload)
	}
	return c
}
