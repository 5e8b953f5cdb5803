package cluster

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
)

func frames(t testing.TB) [][]byte {
	e := &chat.Event{ConversationID: chat.NewID(), Seq: 7, Type: chat.EventMessage, ID: chat.NewID(), SenderID: chat.NewID(), CreatedAt: time.Now(), Content: "hello"}
	list := [][]byte{
		appendEvent(nil, e, 3), appendUser(nil, frameHere, chat.NewID()), appendUser(nil, frameGone, chat.NewID()), appendHello(nil, true), appendHello(nil, false),
	}
	for _, n := range notices() {
		b, err := appendNotice(nil, &n)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, b)
	}
	return list
}

func notices() []chat.Notice {
	at := time.Date(2026, 3, 4, 5, 6, 7, 8e6, time.UTC)
	return []chat.Notice{
		{Hint: &chat.HintNotice{ConversationID: chat.NewID(), Seq: 7, MembersVersion: 3}},
		{Typing: &chat.TypingNotice{ConversationID: chat.NewID(), UserID: chat.NewID(), Typing: true}},
		{Read: &chat.ReceiptNotice{ConversationID: chat.NewID(), UserID: chat.NewID(), UpTo: 5, At: at, MembersVersion: 3}},
		{Block: &chat.BlockNotice{UserID: chat.NewID(), OtherID: chat.NewID()}},
		{Superseded: &chat.SupersededNotice{UserID: chat.NewID(), ClientID: "phone \"1\"", Epoch: 9, Resumed: true}},
	}
}

// What is sent is read as it was.
func TestFrames(t *testing.T) {
	t.Parallel()
	for _, n := range notices() {
		b, err := appendNotice(nil, &n)
		if err != nil {
			t.Fatal(err)
		}
		f, ok := readFrame(b)
		if !ok || !reflect.DeepEqual(f.notice, n) {
			t.Errorf("%s was read as %+v, %v", b, f.notice, ok)
		}
	}
	e := &chat.Event{ConversationID: chat.NewID(), Seq: 7, Type: chat.EventMessage, ID: chat.NewID(), SenderID: chat.NewID(), Content: "hello"}
	f, ok := readFrame(appendEvent(nil, e, 3))
	if !ok || f.event.ConversationID != e.ConversationID || f.event.Seq != 7 || f.membersVersion != 3 || !bytes.Equal(f.event.AppendJSON(nil, ""), e.AppendJSON(nil, "")) {
		t.Errorf("got %+v, %v", f, ok)
	}
	for _, bad := range [][]byte{
		nil,
		{},
		{0},
		{99, 1, 2},
		{byte(frameEvent)},
		appendEvent(nil, &chat.Event{}, 1)[:eventHeader], append([]byte{byte(frameEvent)}, make([]byte, 64)...),
		{byte(frameNotice), '['},
		{byte(frameHere), 1},
		{byte(frameHello)},
		make([]byte, MaxFrame+1),
	} {
		if f, ok := readFrame(bad); ok {
			t.Errorf("%.40q was read as %+v", bad, f)
		}
	}
}

// Whatever comes from elsewhere is refused, or read without harm, and may be sent on.
func FuzzFrame(f *testing.F) {
	for _, b := range frames(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := readFrame(b)
		if !ok {
			return
		}
		subject(&got.notice)
		if got.event != nil {
			again, ok := readFrame(appendEvent(nil, got.event, got.membersVersion))
			if !ok || again.event.Seq != got.event.Seq {
				t.Errorf("%q is not read again", b)
			}
		}
	})
}
