package cluster

import (
	"encoding/binary"
	"encoding/json"

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
	return e.AppendJSON(b, "")
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

// readFrame reads a frame, which it keeps; false if it is malformed or of an unknown kind.
func readFrame(b []byte) (f frame, ok bool) {
	if len(b) == 0 || len(b) > MaxFrame {
		return f, false
	}
	f.kind = frameKind(b[0])
	switch body := b[1:]; f.kind {
	case frameEvent:
		if ok = len(b) > eventHeader && b[eventHeader] == '{'; ok {
			f.event = &chat.Event{ConversationID: chat.ID(body[:16]), Seq: int64(binary.BigEndian.Uint64(body[16:])), Encoded: b[eventHeader:]}
			f.membersVersion = int64(binary.BigEndian.Uint64(body[24:]))
			ok = f.event.Seq > 0 && f.membersVersion > 0 && !f.event.ConversationID.IsZero()
		}
	case frameNotice:
		ok = json.Unmarshal(body, &f.notice) == nil
	case framePublication:
		var err error
		f.publication, err = chat.ParsePublication(body)
		ok = err == nil
	case frameHere, frameGone:
		if ok = len(body) == 16; ok {
			f.user = chat.ID(body)
		}
	case frameHello:
		ok = len(body) > 0
		f.wantsReceipts = ok && body[0]&1 != 0
	}
	return f, ok
}
