package apptest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker/brokertest"
)

// NewDevice is the device of a connection that has been accepted.
func NewDevice(t testing.TB, c *brokertest.Client, u User) *Device {
	return &Device{Client: c, User: u, t: t}
}

// Read reads a PUBLISH on conv/{id}/messages, like EventOf, on any goroutine.
func (e *Event) Read(pk packets.Packet) error {
	e.Packet = pk
	if err := json.Unmarshal(pk.Payload, e); err != nil {
		return fmt.Errorf("%s: %w", brokertest.Describe(pk), err)
	}
	if pk.TopicName != e.ConversationID.Topic("messages") {
		return fmt.Errorf("an event of conversation %s came on %s", e.ConversationID, pk.TopicName)
	}
	return nil
}
