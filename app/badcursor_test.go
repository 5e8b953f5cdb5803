package app_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/chat"
)

// forge makes a cursor as the server does: its sum is no secret.
func forge(version, kind byte, user chat.ID, scope string, key []byte) string {
	b := append([]byte("parley cursor\x00"), kind)
	b = binary.BigEndian.AppendUint32(append(b, user[:]...), uint32(len(scope)))
	sum := sha256.Sum256(append(append(b, scope...), key...))
	return base64.RawURLEncoding.EncodeToString(slices.Concat([]byte{version, kind}, sum[:8], key))
}

// A list is an operation that hands out cursors.
type list struct {
	*apiRequest // for the first page, of one item
	scope       string
	cursor      string
	raw         []byte // of the cursor
}

// lists returns every operation with a cursor, and a cursor of each. One that this test
// cannot make a cursor for as the server does fails it.
func (w *world) lists(t *testing.T, operations []*apiOperation) []*list {
	t.Helper()
	var out []*list
	for _, op := range operations {
		if !slices.ContainsFunc(op.Parameters, func(p *apiParameter) bool { return p.Name == "cursor" }) {
			continue
		}
		l := &list{apiRequest: w.good(t, op)}
		l.query.Set("limit", "1")
		switch op.OperationID {
		case "searchUsers":
			l.scope = "ev" // eve, and eva
			l.query.Set("q", l.scope)
		case "searchMessages":
			l.query.Set("q", "hello")
			l.scope = "\x00\x000001-01-01T00:00:00Z\x00hello"
		case "listMessages", "listParticipants":
			l.scope = string(w.group)
		case "listEdits", "listReactions":
			l.scope = w.message
		}
		r := l.send(t, w.App, w.eve)
		l.cursor, _ = r.JSON["nextCursor"].(string)
		var err error
		if l.raw, err = base64.RawURLEncoding.DecodeString(l.cursor); err != nil || len(l.raw) < 10 {
			t.Fatalf("%s gave no cursor: %s", op.OperationID, r)
		}
		if forge(1, l.raw[1], w.eve.ID, l.scope, l.raw[10:]) != l.cursor {
			t.Fatalf("%s: what is its cursor's scope?", op.OperationID)
		}
		out = append(out, l)
	}
	return out
}

func (l *list) at(cursor string) *apiRequest {
	r := l.clone()
	r.query.Set("cursor", cursor)
	return r
}

// newListWorld is a world in which every list has two pages.
func newListWorld(t *testing.T, a *apptest.App) *world {
	t.Helper()
	w := newWorld(t, a)
	a.User(t, "eva")
	w.send(t, w.nan, w.group, "another")
	w.settle(t)
	return w
}

// The cursors of every list, in places where they don't belong, and changed.
func TestBadCursor(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	w := newListWorld(t, a)
	lists := w.lists(t, readOperations(t, a))
	other := newListWorld(t, a)
	others := other.lists(t, readOperations(t, a))
	w.watch(t)
	before := fingerprint(t, a)
	t.Run("lists", func(t *testing.T) {
		for i, l := range lists {
			t.Run(l.op.OperationID, func(t *testing.T) {
				t.Parallel()
				if r := l.at(l.cursor).send(t, a, w.eve); r.Status != 200 {
					t.Fatalf("its own cursor is answered with %s", r)
				}
				refuse := func(what, cursor string) {
					t.Helper()
					r := l.at(cursor).send(t, a, w.eve)
					if got := answerOf(r); got != invalidField("cursor") {
						t.Errorf("%s: %.80q is answered with %s", what, cursor, r)
					}
				}
				for _, from := range lists {
					if from != l {
						refuse("of "+from.op.OperationID, from.cursor)
						refuse("of "+from.op.OperationID+", as of this", forge(1, from.raw[1], w.eve.ID, l.scope, l.raw[10:]))
					}
				}
				refuse("another user's", others[i].cursor)
				refuse("another user's, of the same list", forge(1, l.raw[1], w.nan.ID, l.scope, l.raw[10:]))
				refuse("another scope's", forge(1, l.raw[1], w.eve.ID, l.scope+"x", l.raw[10:]))
				for _, version := range []byte{0, 2, 3, 0x7f, 0xff} {
					refuse("another version", forge(version, l.raw[1], w.eve.ID, l.scope, l.raw[10:]))
				}
				for n := 1; n < len(l.cursor); n++ { // none is the first page
					refuse("cut", l.cursor[:n])
				}
				for i := range l.raw {
					changed := bytes.Clone(l.raw)
					changed[i] ^= 1 << (i % 8)
					refuse("changed", base64.RawURLEncoding.EncodeToString(changed))
				}
				for _, text := range []string{l.cursor + "A", l.cursor + "=", l.cursor + "\n", " " + l.cursor, l.cursor + l.cursor, strings.ToUpper(l.cursor), "null", "0", "-1", strings.Repeat("A", 10_000)} {
					refuse("not quite", text)
				}
				w.forged(t, l)
			})
		}
	})
	for table, sum := range fingerprint(t, a) {
		if before[table] != sum {
			t.Errorf("something was stored in %s", table)
		}
	}
	w.undisturbed(t)
}

// forged has cursors whose sum is right and whose key the server has not made. They are
// places in the list, or none: what is answered is a page or that the cursor is bad.
func (w *world) forged(t *testing.T, l *list) {
	t.Helper()
	own := l.raw[10:]
	number := func(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
	keys := [][]byte{
		nil,
		{0},
		{0xff},
		[]byte("a\x00b"), []byte("a\xff\xfeb"), []byte("zzzz"), []byte(strings.Repeat("e", 80)), []byte(strings.Repeat("e", 81)),
		number(0), number(1), number(math.MaxInt64), number(math.MaxInt64 + 1), number(math.MaxUint64), number(1 << 62),
		bytes.Repeat([]byte{0xff}, 16), bytes.Repeat([]byte{0}, 16), bytes.Repeat([]byte{0xff}, 24), bytes.Repeat([]byte{0}, 24),
		bytes.Repeat([]byte{0xff}, 36), bytes.Repeat([]byte{0x7f}, 36), bytes.Repeat([]byte{0x80}, 80),
		append(bytes.Repeat([]byte{1}, 16), 0), append(bytes.Repeat([]byte{1}, 16), 0xff), append(bytes.Repeat([]byte{1}, 16), "👍"...),
	}
	for i := range own { // near to what it should be
		keys = append(keys, own[:i])
		for _, b := range []byte{0, 0x7f, 0x80, 0xff} {
			changed := bytes.Clone(own)
			changed[i] = b
			keys = append(keys, changed, append(bytes.Clone(own[:i]), bytes.Repeat([]byte{b}, len(own)-i)...))
		}
	}
	for _, key := range keys {
		r := l.at(forge(1, l.raw[1], w.eve.ID, l.scope, key)).send(t, w.App, w.eve)
		if got := answerOf(r); r.Status != 200 && got != invalidField("cursor") {
			t.Errorf("a forged cursor with the key %q is answered with %.300s", key, r.String())
		}
	}
}
