package cluster

import (
	"encoding/binary"
	"encoding/json"
	"errors"

	"github.com/parleymq/parley/chat"
)

// frameKind is the first byte of a frame; a body follows. Unknown kinds, of a later
// version, are ignored.
type frameKind byte

const (
	frameEvent       frameKind = 1 // an event: its conversation, seq and members_version, then its JSON
	frameNotice      frameKind = 2 // a chat.Notice, as JSON
	frameHere        frameKind = 3 // a user is connected at the sending node
	frameGone        frameKind = 4 // a user is not connected there any more
	frameHello       frameKind = 5 // whether a session at the sending node subscribes to delivery receipts
	framePublication frameKind = 6 // a chat.Publication to a device topic
)

const eventHeader = 1 + 16 + 8 + 8

// appendEvent appends the frame of an event.
func appendEvent(b []byte, e *chat.Event, membersVersion int64) []byte {
	b = append(b, byte(frameEvent))
	b = append(b, e.ConversationID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Seq))
	b = binary.BigEndian.AppendUint64(b, uint64(membersVersion))
	return e.AppendJSON(b)
}

func appendUser(b []byte, kind frameKind, user chat.ID) []byte {
	return append(append(b, byte(kind)), user[:]...)
}

func appendNotice(b []byte, n *chat.Notice) ([]byte, error) {
	text, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	return append(append(b, byte(frameNotice)), text...), nil
}

func appendHello(b []byte, wantsReceipts bool) []byte {
	flags := byte(0)
	if wantsReceipts {
		flags = 1
	}
	return append(b, byte(frameHello), flags)
}

// frame is a frame that was read.
type frame struct {
	kind           frameKind
	event          *chat.Event
	membersVersion int64
	notice         chat.Notice
	publication    *chat.Publication
	user           chat.ID
	wantsReceipts  bool
}

var (
	errFrame   = errors.New("malformed frame")
	errUnknown = errors.New("unknown kind of frame")
)

// readFrame reads a frame. It keeps b.
func readFrame(b []byte) (f frame, err error) {
	if len(b) == 0 || len(b) > MaxFrame {
		return f, errFrame
	}
	f.kind = frameKind(b[0])
	switch body := b[1:]; f.kind {
	case frameEvent:
		if len(b) <= eventHeader || b[eventHeader] != '{' {
			return f, errFrame
		}
		seq := int64(binary.BigEndian.Uint64(body[16:]))
		f.membersVersion = int64(binary.BigEndian.Uint64(body[24:]))
		if seq < 1 || f.membersVersion < 1 || chat.ID(body[:16]).IsZero() {
			return f, errFrame
		}
		f.event = &chat.Event{ConversationID: chat.ID(body[:16]), Seq: seq, Encoded: b[eventHeader:]}
	case frameNotice:
		if json.Unmarshal(body, &f.notice) != nil {
			return f, errFrame
		}
	case framePublication:
		if f.publication, err = chat.ParsePublication(body); err != nil {
			return f, errFrame
		}
	case frameHere, frameGone:
		if len(body) != 16 {
			return f, errFrame
		}
		f.user = chat.ID(body)
	case frameHello:
		if len(body) == 0 {
			return f, errFrame
		}
		f.wantsReceipts = body[0]&1 != 0
	default:
		return f, errUnknown
	}
	return f, nil
}
