package rest_test

import (
	"bytes"
	"encoding/base64"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/rest"
)

const kinds = "uscmnerpbyfk"

// A cursor is good for its own list, user and scope, unchanged, and for nothing else.
func TestCursor(t *testing.T) {
	t.Parallel()
	alice, bob := chat.NewID(), chat.NewID()
	key := rest.SeqKey(42)
	text := rest.EncodeCursor('m', alice, "scope", key)
	kind, got, err := rest.DecodeCursor(text, alice, "scope", []byte(kinds)...)
	if err != nil || kind != 'm' || !bytes.Equal(got, key) {
		t.Fatalf("DecodeCursor = %q, %x, %v", kind, got, err)
	}
	refused := func(what, text string, user chat.ID, scope string, kinds ...byte) {
		t.Helper()
		_, _, err := rest.DecodeCursor(text, user, scope, kinds...)
		if chat.CodeOf(err) != chat.Invalid {
			t.Errorf("%s: DecodeCursor = %v, want invalid", what, err)
		}
	}
	refused("another user", text, bob, "scope", 'm')
	refused("another scope", text, alice, "scopf", 'm')
	refused("another list", text, alice, "scope", 'c', 'n')
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		for bit := range 8 {
			forged := bytes.Clone(raw)
			forged[i] ^= 1 << bit
			refused("a bit flipped", base64.RawURLEncoding.EncodeToString(forged), alice, "scope", []byte(kinds)...)
		}
	}
	for i := range text {
		refused("cut", text[:i], alice, "scope", 'm')
		refused("with a line end", text[:i]+"\n"+text[i:], alice, "scope", 'm')
	}
	c := chat.ConversationCursor{LastEventAt: time.Date(2026, 2, 3, 4, 5, 6, 789_123_000, time.UTC), ID: alice}
	if got, ok := rest.ParseConversationKey(rest.ConversationKey(c)); !ok || got != c {
		t.Errorf("ParseConversationKey = %+v, %v, want %+v", got, ok, c)
	}
	f := chat.SearchCursor{CreatedAt: c.LastEventAt, ID: alice}
	if got, ok := rest.ParseSearchKey(rest.SearchKey(f, false), false); !ok || got != f {
		t.Errorf("ParseSearchKey = %+v, %v, want %+v", got, ok, f)
	}
	f.Rank, f.Until = 0.1, c.LastEventAt.Truncate(time.Millisecond)
	if got, ok := rest.ParseSearchKey(rest.SearchKey(f, true), true); !ok || got != f {
		t.Errorf("ParseSearchKey = %+v, %v, want %+v", got, ok, f)
	}
}

// Whatever text comes, the parsers do not panic, and what they take is what the
// encoder would have made, so no two texts mean one page.
func FuzzCursor(f *testing.F) {
	user := chat.MustParseID(nothing)
	f.Add("")
	f.Add("AXUx")
	f.Add(rest.EncodeCursor('u', user, "q", []byte("alice")))
	f.Add(rest.EncodeCursor('m', user, "q", rest.SeqKey(1)))
	f.Add(rest.EncodeCursor('n', user, "q", rest.SeqKey(-1)))
	f.Add(rest.EncodeCursor('c', user, "q", rest.ConversationKey(chat.ConversationCursor{ID: user})))
	f.Fuzz(func(t *testing.T, text string) {
		kind, key, err := rest.DecodeCursor(text, user, "q", []byte(kinds)...)
		if err != nil {
			if chat.CodeOf(err) != chat.Invalid || len(chat.PublicMessage(err)) > 100 {
				t.Errorf("DecodeCursor(%q) = %v", text, err)
			}
		} else if again := rest.EncodeCursor(kind, user, "q", key); again != text {
			t.Errorf("DecodeCursor took %q, which is %q", text, again)
		}
		for _, key := range [][]byte{key, []byte(text)} {
			if seq, ok := rest.ParseSeqKey(key); ok && seq <= 0 {
				t.Errorf("ParseSeqKey(%x) = %d", key, seq)
			}
			if c, ok := rest.ParseConversationKey(key); ok && (c.ID.IsZero() || c.LastEventAt.Year() < 1 || c.LastEventAt.Year() > 9999) {
				t.Errorf("ParseConversationKey(%x) = %+v", key, c)
			}
			for _, byRank := range []bool{false, true} {
				if c, ok := rest.ParseSearchKey(key, byRank); ok && (c.ID.IsZero() || c.CreatedAt.Year() < 1 || c.CreatedAt.Year() > 9999 || c.Rank != c.Rank) {
					t.Errorf("ParseSearchKey(%x) = %+v", key, c)
				}
			}
		}
	})
}
