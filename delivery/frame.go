package delivery

import (
	"sync/atomic"

	"github.com/parleymq/parley/chat"
)

// Frame is one publication to many sessions. Its payload and encodings are made once, on
// first need, and shared; none of it may be changed.
type Frame struct {
	Topic chat.Topic
	Seq   int64 // of the event; 0 for a signal

	event   *chat.Event // nil once payload is set from the start
	epoch   chat.LogEpoch
	payload atomic.Pointer[[]byte]

	// Wire holds the sinks' encodings of this frame, in slots that the sink's package
	// assigns.
	Wire [4]atomic.Pointer[[]byte]
}

// NewEventFrame returns the frame of an event on conv/{id}/messages, in the epoch of the
// log. e must not change any more.
func NewEventFrame(e *chat.Event, epoch chat.LogEpoch) *Frame {
	return &Frame{Topic: chat.Topic{Kind: chat.TopicMessages, ID: e.ConversationID}, Seq: e.Seq, event: e, epoch: epoch}
}

// NewSignalFrame returns the frame of something that is not stored.
func NewSignalFrame(topic chat.Topic, payload []byte) *Frame {
	f := &Frame{Topic: topic}
	f.payload.Store(&payload)
	return f
}

// Payload returns the bytes to publish. Concurrent first calls may each make them.
func (f *Frame) Payload() []byte {
	if p := f.payload.Load(); p != nil {
		return *p
	}
	b := f.event.AppendJSON(make([]byte, 0, 440+len(f.event.Content)+len(f.event.Content)/8), f.epoch)
	f.payload.Store(&b)
	return b
}
