package store_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// A plan is what EXPLAIN says of one node and those below it.
type plan struct {
	Type    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Index   string  `json:"Index Name"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Cond    string  `json:"Index Cond"`
	Hit     float64 `json:"Shared Hit Blocks"`
	Read    float64 `json:"Shared Read Blocks"`
	Plans   []plan  `json:"Plans"`
}

// read is how many rows of a table were looked at, and by which indexes.
func (p *plan) read(table string) (rows float64, by string) {
	var names []string
	if p.Table == table {
		rows = (p.Rows + p.Removed) * p.Loops
		names = append(names, strings.TrimSpace(p.Type+" "+p.Index))
	}
	for i := range p.Plans {
		r, b := p.Plans[i].read(table)
		if rows += r; b != "" {
			names = append(names, b)
		}
	}
	return rows, strings.Join(names, ", ")
}

// explain runs a statement and returns its plan. generic says whether the
// planner sees the arguments: after some runs it decides without.
func explain(t *testing.T, s *store.Store, generic bool, statement string, args pgx.NamedArgs) *plan {
	t.Helper()
	conn, err := s.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	statement, values, err := args.RewriteQuery(t.Context(), conn.Conn(), statement, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Conn().Prepare(t.Context(), "explained", statement); err != nil {
		t.Fatal(err)
	}
	mode := map[bool]string{true: "force_generic_plan", false: "force_custom_plan"}[generic]
	literals := make([]string, len(values))
	for i, v := range values {
		literals[i] = fmt.Sprintf("'%v'", v)
	}
	explained := "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained (" + strings.Join(literals, ", ") + ")"
	var out []byte
	if _, err := conn.Exec(t.Context(), "SET plan_cache_mode = "+mode); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), explained, pgx.QueryExecModeSimpleProtocol).Scan(&out); err != nil {
		t.Fatalf("%s: %v", explained, err)
	}
	if err := conn.Conn().Deallocate(t.Context(), "explained"); err != nil {
		t.Fatal(err)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal(out, &plans); err != nil {
		t.Fatal(err)
	}
	return &plans[0].Plan
}

// A page costs what it holds, at whatever depth, and whether or not the planner
// sees the arguments: it is read from the primary key.
func TestPagesUseTheKey(t *testing.T) {
	t.Parallel()
	const depth = 100_000
	s := storetest.New(t)
	u := users(t, s, 2)
	deep := group(t, s, now, u...)
	for range 5 { // other conversations in between, as in life
		post(t, s, deep.ID, u[0], depth/5)
		for range 10 {
			post(t, s, group(t, s, now, u...).ID, u[0], 100)
		}
	}
	for i := range 10 { // of other people
		other := user(t, s, fmt.Sprintf("other%d", i)).ID
		post(t, s, group(t, s, now, other).ID, other, 100)
	}
	exec(t, s, manyUsersSQL, 5_000) // so that no table is read whole because it is small
	group(t, s, now, listIDs(t, s, `SELECT array_agg(id) FROM users WHERE username LIKE 'many%'`)...)
	exec(t, s, `CLUSTER events USING events_id`) // by random ids: the worst order, where an index pays least
	exec(t, s, `ANALYZE`)
	middle, err := s.ReadLog(t.Context(), u[1], deep.ID, depth/2, 1)
	if err != nil {
		t.Fatal(err)
	}
	one := pgx.NamedArgs{"conversation_id": deep.ID, "user_id": u[1], "limit": 51}
	with := func(more pgx.NamedArgs) pgx.NamedArgs {
		for k, v := range one {
			more[k] = v
		}
		return more
	}
	for _, tt := range []struct {
		name, sql string
		args      pgx.NamedArgs
		rows      float64
	}{
		{"newest", store.OlderMessagesSQL, with(pgx.NamedArgs{"before": int64(1 << 62)}), 51},
		{"older, deep", store.OlderMessagesSQL, with(pgx.NamedArgs{"before": 100}), 51},
		{"newer, deep", store.NewerMessagesSQL, with(pgx.NamedArgs{"after": depth / 2}), 51},
		{"newer, at the end", store.NewerMessagesSQL, with(pgx.NamedArgs{"after": depth - 10}), 11},
		{"around", store.MessagesAroundSQL, with(pgx.NamedArgs{"around": middle[0].ID}), 103},
		{"log", store.ReadLogSQL, with(pgx.NamedArgs{"after": depth / 2}), 51},
		{"log, nothing new", store.ReadLogSQL, with(pgx.NamedArgs{"after": depth + 1}), 0},
		{"one message", store.GetMessageSQL, pgx.NamedArgs{"id": middle[0].ID, "user_id": u[1]}, 1},
	} {
		for _, generic := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, generic %v", tt.name, generic), func(t *testing.T) {
				p := explain(t, s, generic, tt.sql, tt.args)
				rows, by := p.read("events")
				if rows > tt.rows || strings.Contains(by, "Seq Scan") || strings.Contains(by, "Bitmap") {
					t.Errorf("reads %v events by %s, want at most %v by an index in its order", rows, by, tt.rows)
				}
				if rows, by := p.read("participants"); rows > 2 {
					t.Errorf("reads %v participants by %s", rows, by)
				}
			})
		}
	}
	t.Run("list of conversations", func(t *testing.T) {
		for _, generic := range []bool{false, true} { // all of it is unread, and not looked at
			p := explain(t, s, generic, store.ListConversations, pgx.NamedArgs{"user_id": u[1], "id": chat.ID{}, "last_event_at": "infinity", "limit": 60})
			if rows, by := p.read("events"); rows > 60*101 {
				t.Errorf("generic %v: reads %v events by %s, want none that is one of many unread", generic, rows, by)
			}
		}
		moveReads(t, s, now, move(deep.ID, u[1], depth-10))
		p := explain(t, s, true, store.ListConversations, pgx.NamedArgs{"user_id": u[1], "id": chat.ID{}, "last_event_at": "infinity", "limit": 1})
		if rows, by := p.read("events"); rows > 13 {
			t.Errorf("reads %v events by %s, want the unread and the last", rows, by)
		}
	})
	// However many participants there are, those named are looked up by their key.
	t.Run("receipts", func(t *testing.T) {
		ids := "{" + deep.ID.String() + "}"
		moves := pgx.NamedArgs{"conversations": ids, "users": "{" + u[1].String() + "}", "seqs": "{200}", "now": "2026-03-04T05:06:07Z"}
		for _, tt := range []struct {
			name, sql            string
			args                 pgx.NamedArgs
			participants, events float64
		}{
			{"read", store.MoveReadsSQL, moves, 3, 0},
			{"delivered", store.MoveDeliveredSQL, moves, 3, 0},
			{"locate", store.LocateMessagesSQL, pgx.NamedArgs{"user_id": u[1], "ids": "{" + middle[0].ID.String() + "}"}, 1, 1},
			{"read by", store.ReadBySQL, pgx.NamedArgs{"user_id": u[1], "conversation_id": deep.ID, "sender_id": u[0], "seq": 7, "limit": 100}, 2, 0},
		} {
			for _, generic := range []bool{false, true} {
				p := explain(t, s, generic, tt.sql, tt.args)
				if rows, by := p.read("participants"); rows > tt.participants {
					t.Errorf("%s, generic %v: reads %v participants by %s", tt.name, generic, rows, by)
				}
				if rows, by := p.read("events"); rows > tt.events {
					t.Errorf("%s, generic %v: reads %v events by %s", tt.name, generic, rows, by)
				}
			}
		}
	})
	t.Run("search", func(t *testing.T) {
		for _, generic := range []bool{false, true} {
			p := explain(t, s, generic, store.SearchUsersSQL, pgx.NamedArgs{"prefix": "many", "prefix_end": "many\U0010ffff", "after": "many1", "limit": 20})
			if rows, by := p.read("users"); rows > 20 {
				t.Errorf("generic %v: reads %v users by %s", generic, rows, by)
			}
		}
	})
	storetest.Check(t, s)
}

// Contacts are looked up from conversation to conversation, whatever PostgreSQL knows of the tables:
// without statistics it joined all participants there are, for each user.
func TestContactsReadLittle(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	exec(t, s, `ALTER TABLE participants SET (autovacuum_enabled = off)`)
	exec(t, s, manyUsersSQL, 4000)
	exec(t, s, ringSQL)
	u := listIDs(t, s, `SELECT (array_agg(id))[:100] FROM users`)
	for _, known := range []bool{false, true} {
		if known {
			exec(t, s, `ANALYZE`)
		}
		for _, generic := range []bool{false, true} {
			list := "{" + strings.Trim(strings.ReplaceAll(fmt.Sprint(u), " ", ","), "[]") + "}"
			p := explain(t, s, generic, strings.ReplaceAll(store.ListContactsSQL, "@among", "NULL"), pgx.NamedArgs{"users": list})
			if rows, by := p.read("participants"); rows > 100*50*5 {
				t.Errorf("analysed %v, generic %v: reads %v participants by %s", known, generic, rows, by)
			}
		}
	}
}
