package store_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// Snapshots are read and written as PostgreSQL does.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		low := 1 + r.Uint64N(1<<uint(1+r.IntN(40)))
		high := low + r.Uint64N(100)
		var running []string
		for xid := low; xid < high; xid++ {
			if r.IntN(3) == 0 {
				running = append(running, fmt.Sprint(xid))
			}
		}
		text := fmt.Sprintf("%d:%d:%s", low, high, strings.Join(running, ","))
		var normal string
		if err := s.Pool().QueryRow(t.Context(), `SELECT $1::text::pg_snapshot::text`, text).Scan(&normal); err != nil {
			t.Fatal(err)
		}
		if got, ok := store.ParseSnapshot(normal); !ok || got != normal {
			t.Fatalf("ParseSnapshot(%q) = %q, %v", normal, got, ok)
		}
	}
	for _, bad := range []string{
		"", ":", "::", "1", "1:2", "0:1:", "2:1:", "1:2:3", "2:5:1", "1:9:4,3", "1:9:4,4", "1:9:4,", "1:9:,", "1:9:x", "01:9:", "1:9:04", "-1:9:", "+1:9:", "1:9: 4", "1:9223372036854775808:",
		"1:9:" + strings.Repeat("4,", 1<<20), "1:100000:" + joined(1, 2000),
	} {
		if got, ok := store.ParseSnapshot(bad); ok {
			t.Errorf("ParseSnapshot(%.40q) = %q", bad, got)
		}
	}
}

// joined is the numbers from low to high-1.
func joined(low, high int) string {
	var out []string
	for n := low; n < high; n++ {
		out = append(out, fmt.Sprint(n))
	}
	return strings.Join(out, ",")
}

// Whatever comes, the parsers do not panic; what they take has one text only, which
// PostgreSQL can read.
func FuzzSyncCursor(f *testing.F) {
	f.Add([]byte(""), "1:1:")
	f.Add(append(make([]byte, 16), 10, 5, 2, 0, 3, 0), "10:15:10,13")
	f.Add(append(make([]byte, 16), 10, 5, 0, 2, 10, 6, 0), "10:16:")
	f.Add(append(append(make([]byte, 16), 10, 5, 0, 4, 10, 6, 0), append(make([]byte, 16), 42)...), "1:9223372036854775807:")
	f.Add(append(append(make([]byte, 16), 10, 5, 0, 5, 10, 6, 1, 2), make([]byte, 32)...), "18446744073709551615:1:")
	f.Fuzz(func(t *testing.T, b []byte, text string) {
		again, snapshots, ok := store.ParseSyncCursor(b)
		if ok && !bytes.Equal(again, b) {
			t.Errorf("%x was taken, which is %x", b, again)
		}
		if s, ok := store.ParseSnapshot(text); ok {
			snapshots = append(snapshots, s)
		}
		for _, s := range snapshots {
			if again, ok := store.ParseSnapshot(s); !ok || again != s {
				t.Errorf("%q is read as %q, %v", s, again, ok)
			}
		}
	})
}
