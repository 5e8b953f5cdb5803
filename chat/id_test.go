package chat_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/parleymq/parley/chat"
)

func FuzzParseID(f *testing.F) {
	for _, s := range []string{
		"", "0198c0de-0000-7000-8000-000000000000", "0198C0DE-0000-7000-8000-000000000000", "{0198c0de-0000-7000-8000-000000000000}",
		"urn:uuid:0198c0de-0000-7000-8000-000000000000", "0198c0de000070008000000000000000", "0198c0de-0000-7000-8000-00000000000g",
		"0198c0de-0000-7000-8000-0000000000é", "0198c0de_0000-7000-8000-000000000000", "0198c0de-0000-7000-8000-0000000000000", "--------------------------------—--",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := chat.ParseID(s)
		u, uerr := uuid.Parse(s)
		lower := strings.ToLower(s)
		canonical := uerr == nil && u.String() == lower && len(s) == len(lower) // of the forms that uuid takes
		if (err == nil) != canonical {
			t.Fatalf("ParseID(%q): %v, and uuid says %v, %v", s, err, u, uerr)
		}
		if err != nil {
			if !errors.Is(err, chat.Invalid) || !id.IsZero() {
				t.Fatalf("ParseID(%q) = %v, %v", s, id, err)
			}
			return
		}
		if id != chat.ID(u) || id.String() != lower {
			t.Fatalf("ParseID(%q) = %s, want %s", s, id, u)
		}
		b, _ := id.AppendText([]byte("x"))
		if string(b) != "x"+lower {
			t.Fatalf("AppendText: %q", b)
		}
		var back struct{ ID chat.ID }
		if j, err := json.Marshal(map[string]any{"id": id}); err != nil || json.Unmarshal(j, &back) != nil || back.ID != id {
			t.Fatalf("%s through JSON is %s (%v)", id, back.ID, err)
		}
	})
}

func TestNewIDsAscend(t *testing.T) {
	t.Parallel()
	last := chat.ID{}
	for range 10000 {
		id := chat.NewID()
		if id.Compare(last) <= 0 || id[6]>>4 != 7 || id[8]>>6 != 2 {
			t.Fatalf("%s after %s", id, last)
		}
		last = id
	}
}

func TestIDText(t *testing.T) {
	t.Parallel()
	var id chat.ID
	if err := id.UnmarshalText([]byte("no")); !errors.Is(err, chat.Invalid) {
		t.Errorf("UnmarshalText(no): %v", err)
	}
	want := chat.NewID()
	if err := json.Unmarshal([]byte(`"`+strings.ToUpper(want.String())+`"`), &id); err != nil || id != want {
		t.Errorf("%s in upper case is %s, %v", want, id, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("MustParseID did not panic")
		}
	}()
	chat.MustParseID("no")
}

func TestShardsAreStableAndEven(t *testing.T) {
	t.Parallel()
	var n [7]int
	for range 7000 {
		id := chat.NewID()
		s := id.Shard(len(n))
		if s != id.Shard(len(n)) {
			t.Fatal("an id moved")
		}
		n[s]++
	}
	for i, c := range n {
		if c < 700 || c > 1300 {
			t.Errorf("shard %d has %d of 7000", i, c)
		}
	}
}
