package store_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// distribution says which column spreads each table's rows over several databases, and
// which kind of thing that column names: rows of one such thing lie together. "" is
// for tables that every database would have whole.
var distribution = map[string]struct{ column, of string }{
	"conversations":     {"id", "conversation"},
	"events":            {"conversation_id", "conversation"},
	"participants":      {"conversation_id", "conversation"},
	"reads":             {"conversation_id", "conversation"},
	"reactions":         {"conversation_id", "conversation"},
	"message_originals": {"conversation_id", "conversation"},
	"search_segments":   {"conversation_id", "conversation"},
	"message_terms":     {"conversation_id", "conversation"}, // of older binaries
	"search_positions":  {"conversation_id", "conversation"}, // likewise

	"users":                {"id", "user"},
	"logins":               {"user_id", "user"},
	"presences":            {"user_id", "user"},
	"blocks":               {"user_id", "user"},
	"departures":           {"user_id", "user"},
	"direct_conversations": {"low_user_id", "user"},
	"sessions":             {"user_id", "user"},
	"session_cursors":      {"session_id", "session"},
	"presence_places":      {"user_id", "user"},
	"retained_messages":    {"space", "user"},
	"refresh_tokens":       {"login_id", "login"},

	"signing_keys":          {},
	"sync_origin":           {},
	"nodes":                 {},
	"journal":               {}, // of each database its own, of what was committed there; nodes read all of them
	"contact_changes":       {}, // likewise
	"parley_schema_version": {},
	"schema_compatibility":  {},
}

// Whatever a statement on the way of a message, of a delivery, or of a connection does
// in a table names the thing that the table is distributed by; otherwise it would ask
// every database, and the more there are, the more each message cost. So every
// statement of this package has a line in store.Statements: what it is for, and which
// things it names. The test reads the plan of each and compares; for a hot one that
// asks all, or two kinds of things at once, there must be a reason.
func TestStatementsNameTheirShard(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	for name := range maps.Keys(distribution) {
		exec(t, s, `SELECT FROM `+name+` LIMIT 0`)
	}
	columns := columnsOf(t, s)
	listed := map[string]bool{}
	for _, st := range store.Statements {
		name, _, _ := strings.Cut(st.Name, "[")
		listed[name] = true
		if st.Class == store.Part || st.Class == store.Utility {
			continue
		}
		got, plans := shardsOf(t, s, columns, st)
		if got != st.Names {
			t.Errorf("store.Statements: the line of %s should be\n\t{%q, %s, %s, %q, %q},\nby the plan\n%s", st.Name, st.Name, st.Name, st.Class, got, st.Why, plans)
		}
		crosses := strings.Contains(got, "all:") || strings.Contains(got, ";")
		if st.Class == store.Hot && crosses && st.Why == "" {
			t.Errorf("%s is hot, and names %q: give it the key, or a reason", st.Name, got)
		}
		if !crosses && st.Why != "" {
			t.Errorf("%s has a reason, and needs none any more: %s", st.Name, st.Why)
		}
	}
	for _, name := range store.StatementsInSource(t) {
		if !listed[name] {
			t.Errorf("%s is in no line of store.Statements: add {%q, %s, Warm, \"\", \"\"}, and this test says what it names", name, name, name)
		}
	}
}

// The rule finds what it is there to find.
func TestShardsOf(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	columns := columnsOf(t, s)
	for sql, want := range map[string]string{
		`SELECT FROM events WHERE conversation_id = @id`:                                                                                        "conversation: events",
		`SELECT FROM events WHERE id = @id`:                                                                                                     "all: events",
		`SELECT FROM events WHERE conversation_id = @id OR @all`:                                                                                "all: events",
		`SELECT FROM events WHERE conversation_id <> @id`:                                                                                       "all: events",
		`SELECT FROM events WHERE conversation_id > @id`:                                                                                        "all: events",
		`SELECT FROM events WHERE NOT (conversation_id = @id AND seq = 1)`:                                                                      "all: events",
		`SELECT FROM events WHERE conversation_id = ANY (@ids::uuid[]) AND seq = 1`:                                                             "conversation: events",
		`SELECT FROM unnest(@ids::uuid[]) AS u (id) JOIN events e ON e.conversation_id = u.id`:                                                  "conversation: events",
		`SELECT FROM unnest(@ids::uuid[]) AS u (id) JOIN events e ON e.id = u.id`:                                                               "all: events",
		`SELECT FROM participants p JOIN events e USING (conversation_id) WHERE p.user_id = @id`:                                                "all: events, participants",
		`SELECT FROM participants p JOIN events e USING (conversation_id) WHERE conversation_id = @id`:                                          "conversation: events, participants",
		`SELECT FROM participants p JOIN users u ON u.id = p.user_id WHERE conversation_id = @id`:                                               "all: users; conversation: participants",
		`SELECT FROM events WHERE conversation_id = (SELECT conversation_id FROM participants WHERE user_id = @id)`:                             "all: events, participants",
		`UPDATE events SET content = '' WHERE conversation_id = @id AND seq = @seq`:                                                             "conversation: events",
		`UPDATE events SET content = '' WHERE id = @id`:                                                                                         "all: events",
		`DELETE FROM events e USING participants p WHERE p.user_id = @id AND e.conversation_id = p.conversation_id`:                             "all: events, participants",
		`INSERT INTO reads (conversation_id, user_id, seq, at) VALUES (@id, @user_id, 1, now())`:                                                "conversation: reads",
		`INSERT INTO reads (conversation_id, user_id, seq, at) SELECT conversation_id, user_id, 1, now() FROM participants WHERE user_id = @id`: "all: participants, reads",
		`SELECT FROM signing_keys`: "",
	} {
		if got, plan := shardsOf(t, s, columns, store.Statement{Name: sql, SQL: sql}); got != want {
			t.Errorf("%s names %q, want %q by the plan\n%s", sql, got, want, plan)
		}
	}
}

// shardsOf returns which tables a statement reads or writes by which things, as
// "conversation: events, participants; all: users".
func shardsOf(t *testing.T, s *store.Store, columns map[string][]string, st store.Statement) (names, plan string) {
	t.Helper()
	conn, err := s.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	statement := st.SQL
	if strings.Contains(statement, "@") {
		statement, _, err = pgx.NamedArgs{}.RewriteQuery(t.Context(), conn.Conn(), statement, nil)
		if err != nil {
			t.Fatal(err)
		}
	}
	// Arguments are numbered from 101 on: results of subqueries are numbered, too, from 0.
	const shift = 100
	last := 0
	statement = argument.ReplaceAllStringFunc(statement, func(arg string) string {
		n, _ := strconv.Atoi(arg[1:])
		last = max(last, n)
		return "$" + strconv.Itoa(shift+n)
	})
	types, nulls := "", ""
	if last > 0 {
		types = "(int" + strings.Repeat(", int", shift-1) + ")"
		nulls = "(NULL" + strings.Repeat(", NULL", shift+last-1) + ")"
	}
	if _, err := conn.Exec(t.Context(), "PREPARE sharded "+types+" AS "+statement, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v\n%s", st.Name, err, statement)
	}
	explain := "EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE sharded " + nulls
	var out []byte
	for _, set := range []string{"plan_cache_mode = force_generic_plan", "enable_hashjoin = off", "enable_mergejoin = off", "enable_seqscan = off", "jit = off"} {
		if _, err := conn.Exec(t.Context(), "SET "+set); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.QueryRow(t.Context(), explain, pgx.QueryExecModeSimpleProtocol).Scan(&out); err != nil {
		t.Fatalf("%s: %v", st.Name, err)
	}
	if _, err := conn.Exec(t.Context(), "DEALLOCATE sharded"); err != nil {
		t.Fatal(err)
	}
	out = selects.ReplaceAll(out, []byte("select$1"))
	var plans []struct{ Plan shardPlan }
	if err := json.Unmarshal(out, &plans); err != nil {
		t.Fatal(err)
	}
	a := access{columns: columns, equal: map[string][]string{}, scans: map[string]string{}, free: map[string]bool{}, outputs: map[string][]string{}, ctes: map[string][]string{}}
	a.read(&plans[0].Plan)
	return a.String(), string(out)
}

// shardPlan is a node of a plan, as EXPLAIN (VERBOSE) says it.
type shardPlan struct {
	Type       string   `json:"Node Type"`
	Operation  string   `json:"Operation"`
	Table      string   `json:"Relation Name"`
	Alias      string   `json:"Alias"`
	CTE        string   `json:"CTE Name"`
	Subplan    string   `json:"Subplan Name"`
	Output     []string `json:"Output"`
	IndexCond  string   `json:"Index Cond"`
	Recheck    string   `json:"Recheck Cond"`
	Filter     string   `json:"Filter"`
	JoinFilter string   `json:"Join Filter"`
	Conflict   string   `json:"Conflict Resolution"`
	Plans      []shardPlan
}

// access is what a plan does: terms are "alias.column", "$1", or a CTE's.
type access struct {
	columns map[string][]string // of each table, in its order
	scans   map[string]string   // alias: table
	equal   map[string][]string // term: terms that are equal to it
	free    map[string]bool     // aliases of functions over arguments
	outputs map[string][]string // alias of a CTE or subquery: what it returns
	ctes    map[string][]string // what each CTE returns
}

func (a *access) read(p *shardPlan) {
	if name, ok := strings.CutPrefix(p.Subplan, "CTE "); ok {
		a.ctes[name] = p.Output
	}
	if m := returns.FindStringSubmatch(p.Subplan); m != nil { // an InitPlan's result looks like an argument
		a.outputs[m[1]] = p.Output
	}
	for i := range p.Plans {
		a.read(&p.Plans[i])
	}
	switch {
	case p.Operation == "Insert":
		a.scans[p.Alias] = p.Table
		a.inserts(p)
	case p.Table != "":
		a.scans[p.Alias] = p.Table
	case p.CTE != "":
		a.outputs[p.Alias] = a.ctes[p.CTE]
	case p.Type == "Function Scan":
		a.free[p.Alias] = true
	case p.Type == "Subquery Scan" && len(p.Plans) > 0:
		a.outputs[p.Alias] = p.Plans[len(p.Plans)-1].Output
	}
	for _, cond := range []string{p.IndexCond, p.Recheck, p.Filter, p.JoinFilter} {
		for _, c := range conjuncts(cond) {
			for _, m := range equality.FindAllStringSubmatch(c, -1) {
				a.equate(m[1], m[2])
			}
		}
	}
}

// inserts equates the key of what is inserted with where it comes from. The rows have
// the columns of the table, in its order.
func (a *access) inserts(p *shardPlan) {
	place := slices.Index(a.columns[p.Table], distribution[p.Table].column)
	if place < 0 || len(p.Plans) == 0 {
		return
	}
	from := &p.Plans[0]
	if place < len(from.Output) {
		for _, term := range terms.FindAllString(from.Output[place], 1) {
			a.equate(p.Alias+"."+distribution[p.Table].column, term)
		}
	}
}

func (a *access) equate(x, y string) {
	a.equal[x] = append(a.equal[x], y)
	a.equal[y] = append(a.equal[y], x)
}

// bound reports whether a term is an argument, or equal to one, over columns of the
// same kind.
func (a *access) bound(term string, seen map[string]bool) bool {
	if seen[term] {
		return false
	}
	seen[term] = true
	alias, column, isColumn := strings.Cut(term, ".")
	switch outputs, derived := a.outputs[alias]; {
	case derived && !isColumn: // $0, of an InitPlan
		return slices.ContainsFunc(outputs, func(o string) bool { return a.bound(o, seen) })
	case !isColumn, a.free[alias]:
		return true
	case derived:
		for _, o := range outputs {
			if o == term || strings.HasSuffix(o, "."+column) && a.bound(o, seen) {
				return true
			}
		}
	}
	return slices.ContainsFunc(a.equal[term], func(other string) bool { return a.bound(other, seen) })
}

// String sums up.
func (a *access) String() string {
	by := map[string][]string{}
	for alias, table := range a.scans {
		d := distribution[table]
		of := d.of
		switch {
		case of == "":
			continue
		case !a.bound(alias+"."+d.column, map[string]bool{}):
			of = "all"
		}
		if !slices.Contains(by[of], table) {
			by[of] = append(by[of], table)
		}
	}
	var parts []string
	for _, of := range slices.Sorted(maps.Keys(by)) {
		slices.Sort(by[of])
		parts = append(parts, of+": "+strings.Join(by[of], ", "))
	}
	return strings.Join(parts, "; ")
}

var (
	equality = regexp.MustCompile(`([a-z_]\w*\.[a-z_]\w*|\$\d+) = (?:ANY )?\(*([a-z_]\w*\.[a-z_]\w*|\$\d+)`)
	terms    = regexp.MustCompile(`[a-z_]\w*\.[a-z_]\w*|\$\d+`)
	argument = regexp.MustCompile(`\$\d+`)
	selects  = regexp.MustCompile(`(?:\\")?\*SELECT\* ?(\d*)(?:\\")?`) // an alias that PostgreSQL makes up
	returns  = regexp.MustCompile(`\(returns (\$\d+)\)`)
)

// conjuncts are the parts of a condition that hold for every row that passes.
func conjuncts(cond string) []string {
	for strings.HasPrefix(cond, "(") && closing(cond) == len(cond)-1 {
		cond = cond[1 : len(cond)-1]
	}
	var parts []string
	depth, from := 0, 0
	for i := range len(cond) {
		switch {
		case cond[i] == '(':
			depth++
		case cond[i] == ')':
			depth--
		case depth == 0 && strings.HasPrefix(cond[i:], " AND "):
			parts, from = append(parts, cond[from:i]), i+len(" AND ")
		}
	}
	parts = append(parts, cond[from:])
	return slices.DeleteFunc(parts, func(p string) bool { return strings.Contains(p, " OR ") || strings.Contains(p, "NOT ") })
}

func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func columnsOf(t *testing.T, s *store.Store) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	rows, err := s.Pool().Query(t.Context(), `
SELECT table_name::text, array_agg(column_name::text ORDER BY ordinal_position) FROM information_schema.columns WHERE table_schema = 'public' GROUP BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	var table string
	var columns []string
	if _, err := pgx.ForEachRow(rows, []any{&table, &columns}, func() error {
		all[table], columns = columns, nil
		if _, known := distribution[table]; !known {
			t.Errorf("table %s: say in distribution by what it would be spread over several databases", table)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}
