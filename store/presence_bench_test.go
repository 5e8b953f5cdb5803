package store_test

import (
	"fmt"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store/storetest"
)

// ringSQL gives each user a direct conversation with the 25 that follow on either side.
const ringSQL = `
WITH r AS (SELECT id, row_number() OVER (ORDER BY id) - 1 AS i, count(*) OVER () AS n FROM users),
d AS (SELECT gen_random_uuid() AS id, a.id AS a, b.id AS b FROM r a CROSS JOIN generate_series(1, 25) AS k JOIN r b ON b.i = (a.i + k) % a.n),
c AS (INSERT INTO conversations (id, kind, created_by, created_at, last_event_at) SELECT id, 'direct', a, now(), now() FROM d)
INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq)
SELECT id, u, 'member', now(), 1 FROM d CROSS JOIN LATERAL (VALUES (a), (b)) AS m (u)`

// What it costs to know the 50 contacts of a user: for a session that subscribes, and
// for those who come online together.
func BenchmarkContacts(b *testing.B) {
	s := storetest.New(b)
	u := users(b, s, 500)
	exec(b, s, ringSQL)
	exec(b, s, `ANALYZE`)
	b.Run("session", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if list, err := s.ListContactPresences(b.Context(), u[i%len(u)], nil, chat.ID{}, 500); err != nil || len(list) != 50 {
				b.Fatal(len(list), err)
			}
		}
	})
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprint("changes=", n), func(b *testing.B) {
			for b.Loop() {
				if found, err := s.ListContacts(b.Context(), u[:n], nil); err != nil || len(found) != n {
					b.Fatal(len(found), err)
				}
			}
		})
	}
}
