package store_test

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// scenery is a database as statements of users meet it: conversations of everyday size beside
// one of `deep` messages, and of every other table enough rows that reading all of one shows.
type scenery struct {
	s      *store.Store
	values map[string]string            // of arguments, by name
	of     map[string]map[string]string // by statement, where the name means something else
}

// everydaySQL adds n users, n/10 direct conversations and what belongs to them.
var everydaySQL = []string{
	`CREATE TEMP TABLE u ON COMMIT DROP AS SELECT gen_random_uuid() AS id, row_number() OVER () AS n FROM generate_series(1, @n)`,
	`INSERT INTO users (id, username, email, display_name, password_hash, created_at, profile_xid)
	 SELECT id, 'u' || left(id::text, 23), left(id::text, 23), '', '', now(), '3' FROM u`,
	`CREATE TEMP TABLE c ON COMMIT DROP AS SELECT gen_random_uuid() AS id, n, least(a.id, b.id) AS low, greatest(a.id, b.id) AS high
	 FROM u a JOIN (SELECT id, n - 1 AS n FROM u) b USING (n) WHERE n % 4 = 1`,
	`INSERT INTO conversations (id, kind, created_by, created_at, last_seq, last_event_at, last_xid) SELECT id, 'direct', low, now(), 11, now(), '3' FROM c`,
	`INSERT INTO direct_conversations SELECT low, high, id FROM c`,
	`INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq, joined_xid, xid) SELECT id, unnest(ARRAY[low, high]), 'member', now(), 1, '3', '3' FROM c`,
	`INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content, xid)
	 SELECT id, i, gen_random_uuid(), low, gen_random_uuid(), now(), 'message', 'hello ' || i, '3' FROM c, generate_series(1, 11) AS i`,
	`INSERT INTO search_segments (conversation_id, last_seq, first_term, first_seq, bytes, data) SELECT id, 8, term, 1, 10, '' FROM c, unnest(ARRAY['', '\\x02', 'a']::bytea[]) AS term`,
	`INSERT INTO reads SELECT id, low, i, now() FROM c, generate_series(1, 4) AS i`,
	`INSERT INTO reactions SELECT e.conversation_id, e.id, '👍', e.sender_id, now() FROM events e JOIN c ON c.id = e.conversation_id WHERE e.seq < 4`,
	`INSERT INTO message_originals SELECT e.conversation_id, e.id, 'before' FROM events e JOIN c ON c.id = e.conversation_id WHERE e.seq < 4`,
	`INSERT INTO departures (user_id, conversation_id, left_at, xid) SELECT low, gen_random_uuid(), now(), '3' FROM c`,
	`INSERT INTO blocks SELECT a.id, b.id, now() FROM u a JOIN u b ON b.n = a.n + 7`,
	`INSERT INTO presences (user_id) SELECT id FROM u`,
	`INSERT INTO presence_places (user_id, node, node_id, status) SELECT id, 'n', 'n', 'online' FROM u`,
	`INSERT INTO logins SELECT gen_random_uuid(), id, 'phone', now(), now(), now() + interval '1 day', NULL FROM u`,
	`INSERT INTO refresh_tokens (hash, login_id, created_at) SELECT sha256(l.id::text::bytea), l.id, now() FROM logins l JOIN u ON u.id = l.user_id`,
	`INSERT INTO sessions (id, user_id, client_id, node, created_at, connected_at, expiry_seconds, expires_at)
	 SELECT gen_random_uuid(), id, 'phone', 'n', now(), now(), 86400, now() + interval '1 day' FROM u`,
	`INSERT INTO session_cursors SELECT s.id, p.conversation_id, 5 FROM sessions s JOIN participants p USING (user_id) JOIN c ON c.id = p.conversation_id`,
	`INSERT INTO retained_messages SELECT id, 'dev/lamp/' || i, id, 0, 1, '', 'on', now(), NULL FROM u, generate_series(1, 2) AS i`,
	`INSERT INTO journal (node, conversations, seqs, versions) SELECT 'x', ARRAY[id], '{5}', '{1}' FROM c`,
}

// emptySQL deletes what comes and goes in a while, of which the tables keep the pages.
var emptySQL = []string{`DELETE FROM presence_places`, `DELETE FROM contact_changes`, `DELETE FROM journal`}

const deep, room, mine = 100_000, 300, 60

// busySQL adds user @me, who is in `mine` of the conversations, in one of `deep` messages with @you, and in a group of `room`.
var busySQL = []string{
	`INSERT INTO users (id, username, email, display_name, password_hash, created_at) SELECT unnest(ARRAY[@me, @you]::uuid[]), unnest(ARRAY['me', 'you']), unnest(ARRAY['me', 'you']), '', '', now()`,
	`INSERT INTO conversations (id, kind, created_by, created_at, last_seq, last_event_at) SELECT unnest(ARRAY[@deep, @room]::uuid[]), 'group', @me, now(), unnest(ARRAY[@n, 1]), now()`,
	`INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq) SELECT @deep, unnest(ARRAY[@me, @you]::uuid[]), unnest(ARRAY['owner', 'member']), now(), 1`,
	`UPDATE participants SET read_seq = @n - 20 WHERE conversation_id = @deep`,
	`INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq) SELECT @room, id, 'member', now(), 1 FROM (SELECT id FROM users WHERE id NOT IN (@me, @you) ORDER BY id LIMIT @others) r`,
	`INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq) SELECT @room, @me, 'owner', now(), 1`,
	`INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq) SELECT id, @me, 'member', now(), 1 FROM (SELECT id FROM conversations WHERE kind = 'direct' ORDER BY id LIMIT @few) r`,
	`INSERT INTO events (conversation_id, seq, id, sender_id, client_msg_id, created_at, type, content, xid, detail)
	 SELECT @deep, i, CASE i WHEN @n / 2 THEN @message::uuid ELSE gen_random_uuid() END, CASE WHEN i % 2 = 0 THEN @me::uuid ELSE @you END, CASE i WHEN @n / 2 THEN @key::uuid ELSE gen_random_uuid() END,
	   now() + i * interval '1 ms', CASE WHEN i % 1000 = 3 THEN 'edit' ELSE 'message' END, 'hello ' || i, '3', CASE WHEN i % 1000 = 3 THEN jsonb_build_object('messageId', CASE WHEN i < 10000 THEN gen_random_uuid() ELSE @message END) END FROM generate_series(1, @n) AS i`,
	`INSERT INTO events (conversation_id, seq, id, sender_id, created_at, type) SELECT @room, 1, gen_random_uuid(), @me, now(), 'conversation'`,
	`INSERT INTO search_segments (conversation_id, last_seq, first_term, first_seq, bytes, data)
	 SELECT @deep, 1000 * i, CASE WHEN j = 0 THEN '' ELSE j::text::bytea END, 1000 * i - 999, 10, '' FROM generate_series(1, @n / 1000 - 1) AS i, generate_series(0, 40) AS j`,
	`INSERT INTO reads SELECT @deep, u, i, now() FROM unnest(ARRAY[@me, @you]::uuid[]) AS u, generate_series(1, @n, 10) AS i`,
	`INSERT INTO reactions SELECT @deep, @message, '👍', id, now() FROM (SELECT id FROM users ORDER BY id LIMIT @others) r`,
	`INSERT INTO sessions (id, user_id, client_id, node, created_at, connected_at, expiry_seconds, expires_at) SELECT CASE i WHEN 1 THEN @session::uuid ELSE gen_random_uuid() END, @me, 'phone' || i, 'n', now(), now(), 86400, now() + interval '1 day' FROM generate_series(1, 20) AS i`,
	`INSERT INTO session_cursors SELECT s.id, p.conversation_id, 1 FROM sessions s JOIN participants p USING (user_id) WHERE s.user_id = @me`,
	`INSERT INTO logins SELECT CASE i WHEN 1 THEN @login::uuid ELSE gen_random_uuid() END, @me, 'phone', now(), now(), now() + interval '1 day', NULL FROM generate_series(1, 20) AS i`,
	`INSERT INTO refresh_tokens (hash, login_id, created_at) SELECT sha256(i::text::bytea), @login, now() FROM generate_series(1, 20) AS i`,
	`INSERT INTO blocks SELECT @me, id, now() FROM (SELECT id FROM users WHERE id NOT IN (@me, @you) ORDER BY id LIMIT 20) r`,
	`INSERT INTO presences (user_id) SELECT unnest(ARRAY[@me, @you]::uuid[])`,
	`INSERT INTO presence_places (user_id, node, node_id, status) SELECT unnest(ARRAY[@me, @you]::uuid[]), 'n', 'n', 'online'`,
}

// run executes statements in one transaction, with @name replaced by the values.
func (sc *scenery) run(t *testing.T, statements []string, values pgx.NamedArgs) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), sc.s.Pool(), func(tx pgx.Tx) error {
		for _, sql := range statements {
			sql = namedArgument.ReplaceAllStringFunc(sql, func(text string) string {
				before, name, _ := strings.Cut(text, "@")
				if id, ok := values[name].(string); ok {
					return before + "'" + id + "'::uuid"
				}
				return before + fmt.Sprint(values[name])
			})
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				return fmt.Errorf("%s: %w", sql, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func newScenery(t *testing.T) *scenery {
	s := storetest.New(t)
	sc := &scenery{s: s}
	exec(t, s, `DO $$ DECLARE t text; BEGIN
		FOR t IN SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LOOP EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', t); END LOOP; END $$`)
	return sc
}

func (sc *scenery) fill(t *testing.T) {
	sc.run(t, everydaySQL, pgx.NamedArgs{"n": 8000})
	ids := map[string]string{}
	for _, name := range []string{"me", "you", "deep", "room", "message", "key", "session", "login", "other"} {
		ids[name] = chat.NewID().String()
	}
	args := pgx.NamedArgs{"n": deep, "others": room, "few": mine}
	for name, id := range ids {
		args[name] = id
	}
	sc.run(t, busySQL, args)
	set := func(id ...string) string { return "{" + strings.Join(id, ",") + "}" }
	var snapshot string
	if err := sc.s.Pool().QueryRow(t.Context(), `SELECT pg_current_snapshot()::text`).Scan(&snapshot); err != nil {
		t.Fatal(err)
	}
	me, you, deepID, message := ids["me"], ids["you"], ids["deep"], ids["message"]
	const at = "2026-03-04T05:06:07Z"
	zero := chat.ID{}.String()
	sc.values = map[string]string{
		"user_id": me, "blocked_id": you, "low": min(me, you), "high": max(me, you), "conversation_id": deepID, "id": deepID, "ids": set(deepID), "conversations": set(deepID),
		"conversation_ids": set(deepID), "message_id": message, "message_text": message, "messages": set(message), "users": set(me), "user_ids": set(me, you), "sender_id": you,
		"seq": fmt.Sprint(deep / 2), "seqs": set(fmt.Sprint(deep / 2)), "before": fmt.Sprint(int64(1) << 62), "after": fmt.Sprint(deep / 2), "around": message, "limit": "51",
		"now": at, "at": at, "created_at": at, "last_event_at": "infinity", "joined_at": at, "left_at": at, "expires_at": at, "kind": "group", "title": "t", "type": "message",
		"detail": "{}", "last_seq": "7", "members_version": "1", "history": "joined", "role": "member", "whole": "f", "hash": `\x6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b`,
		"login_id": ids["login"], "grace": "10", "salt": `\x00`, "credentials_at": "NULL", "device": "d", "last_used_at": at, "revoked_at": "NULL", "except": ids["login"],
		"expires": at, "credentials_since": "now", "since": "now", "among": "NULL", "node": "x", "node_id": "x", "places": "{online}", "emojis": "{👍}", "emoji": "👍", "after_user": "NULL",
		"a": set(me), "b": set(you), "nodes": "{n}", "ats": "{" + at + "}", "expiries": "{86400}", "awaits": "{f}", "clients": "{phone1}", "epochs": "{1}", "spaces": set(me), "space": me, "topics": "{dev/lamp/1}", "client_id": "phone1", "await": "f", "expiry": "86400", "outbox": "x",
		"keep": "100", "epoch": "1", "subscriptions": "[]", "all": "f", "sessions": set(ids["session"]), "nexts": "{7}", "released": "{f}", "held": "{}", "inflight": "[]", "unacked": "[]", "next_packet_id": "7",
		"seen": snapshot, "until": snapshot, "xmin": strings.Split(snapshot, ":")[0], "reader": zero, "last": set(fmt.Sprint(deep/2 + 50)), "many": "1000", "admin": "f", "disabled_at": "NULL",
		"display_name": "", "email": "x@example.org", "password_hash": "x", "username": "xx", "login": "me", "usernames": "{me,you}", "if_password_hash": "NULL", "set_disabled_at": "f", "set_email": "f",
		"prefix": "u12", "prefix_end": "u12~", "content": "x", "stretch": "1000", "sender_ids": set(you), "created_ats": "{" + at + "}", "origins": "{0}", "qos": "{0}", "properties": `{"\\x"}`, "payloads": `{"\\x"}`, "version": "1", "members": "f", "cursor": snapshot, "kept": "60", "below": "dev/lamp/", "last_id": zero,
	}
	fresh := func() string { return chat.NewID().String() }
	user, session, login, other := map[string]string{"id": me}, map[string]string{"id": ids["session"]}, map[string]string{"id": ids["login"]}, map[string]string{"id": fresh()}
	fromStart := map[string]string{"id": zero, "seq": "0"}
	changed := map[string]string{"since": snapshot, "changed": "0", "after": zero, "next": snapshot}
	var together, apart string
	if err := sc.s.Pool().QueryRow(t.Context(), `SELECT (array_agg(id ORDER BY id))[:100]::text, (array_agg(id ORDER BY id DESC))[:100]::text FROM users`).Scan(&together, &apart); err != nil {
		t.Fatal(err)
	}
	many := map[string]string{"users": together, "node": "n", "node_id": "n", "places": set(slices.Repeat([]string{"NULL", "online"}, 50)...), "says": set(slices.Repeat([]string{"t"}, 100)...), "last": set(slices.Repeat([]string{at}, 100)...)}
	sc.of = map[string]map[string]string{
		"getUserSQL": user, "listHiddenSQL": {"id": deepID}, "firstBlockedSQL": {"ids": set(you)}, "missingUserSQL": {"ids": set(me, you)},
		"listConversationsSQL": {"id": "NULL"}, "claimPairSQL": other, "createSessionSQL": {"id": fresh(), "client_id": "new"}, "createUserSQL": {"id": fresh()},
		"updateUserSQL": user, "createLoginSQL": {"id": fresh(), "hash": `\x0000000000000000000000000000000000000000000000000000000000000000`}, "createTokenSQL": {"hash": `\x0000000000000000000000000000000000000000000000000000000000000000`},
		"revokeLoginSQL": login, "reusedSQL": login, "useLoginSQL": login, "deleteSessionSQL": session, "changeSubscriptionsSQL": session, "endCursorsSQL": session, "beginCursorsSQL": session,
		"partSessionSQL": session, "endSessionSQL": session, "getMessageSQL": {"id": message}, "locateMessagesSQL": {"ids": set(message)}, "newParticipantsSQL": {"ids": set(you)},
		"getParticipantsSQL": {"ids": set(you)}, "addParticipantsSQL": {"ids": set(fresh())}, "endDeparturesSQL": {"ids": set(me)}, "insertConversationSQL": {"conversation_id": fresh()}, "insertParticipantsSQL": {"conversation_id": fresh()},
		"listBlocksSQL": {"after": zero}, "pageParticipantsSQL": {"after": zero, "id": ids["room"]}, "getRosterSQL": {"id": deepID}, "searchUsersSQL": {"after": ""}, "listUsersSQL": {"after": ""}, "listRetainedSQL": {"after": ""}, "listRetainedBelowSQL": {"after": "", "until": "dev/lamp0"},
		"listEditsSQL": {"after": "0"}, "saveCursorsSQL": {}, "syncProfilesSQL[0]": fromStart, "syncProfilesSQL[1]": fromStart, "syncDeparturesSQL": fromStart, "syncJoinedSQL": fromStart, "syncLogPartsSQL": fromStart,
		"syncReadsSQL": fromStart, "syncEventsSQL": {"after": set(fmt.Sprint(deep / 2))}, "putContactChangeSQL": {"id": fresh()}, "scanSQL": {"after": zero, "gather": "64"}, "lastSegmentsSQL": {"limit": "16"}, "changedSQL": {"after": fmt.Sprint(deep - 100), "up_to": fmt.Sprint(deep)}, "getSegmentsSQL": {"first": "5000", "last": "5000"}, "getTextsSQL": {"up_to": fmt.Sprint(deep/2 + 50)}, "deleteSegmentsSQL": {"first": "7000", "last": "7000"}, "addSegmentSQL": {"first": "1", "last": "7", "bytes": "1", "terms": `{"\\x"}`, "data": `{"\\x"}`}, "searchLogSQL": {"afters": set(fmt.Sprint(deep - 50)), "ends": set(fmt.Sprint(deep))}, "searchSegmentsSQL": {"ends": "{4321}", "firsts": `{"\\x3335"}`, "untils": `{"\\x333500"}`}, "listSegmentsSQL": {"conversation_id": deepID, "last_seq": "1"}, "searchedSQL": {"before": at},
		"putRetainedSQL": {"expires": "{" + at + "}", "now": "{" + at + "}"}, "insertEventSQL": {"id": fresh(), "seq": fmt.Sprint(deep + 1)}, "deleteExpiredSQL": {"before": at}, "addReactionSQL": {"message_id": fresh()},
		"listContactsSQL": {"users": apart}, "getPresencesSQL": many, "lockPresencesSQL": many, "acquaintedPairSQL": {"a": me, "b": you}, "listContactPresencesSQL": {"of": "NULL", "after": zero}, "changedPresencesSQL": changed, "contactChangesSQL": changed, "putPlacesSQL": many, "deletePlacesSQL": many, "computePresencesSQL": many, "outboxLogSQL": other,
		"lookupSQL": {"1": set(deepID), "2": set(me), "3": set(ids["key"])}, "findResentSQL": {"1": deepID, "2": me, "3": ids["key"], "4": ids["key"]}, "lockConversationSQL": {"1": deepID}, "lockBatchSQL": {"1": set(deepID)},
		"appendSQL": {"1": set(deepID), "2": "{1}", "3": "{1}", "4": at, "5": set(deepID), "6": "{1}", "7": set(fresh()), "8": set(me), "9": set(fresh()), "10": "{x}", "11": "{NULL}", "12": "{message}"},
	}
	sc.of["appendOneSQL"] = map[string]string{"1": deepID, "2": "1", "3": at, "4": fresh(), "5": me, "6": fresh(), "7": "x", "8": "NULL", "9": "message"}
	one := maps.Clone(sc.of["appendOneSQL"])
	one["10"], one["11"], one["12"] = "n", "phone1", "9"
	sc.of["appendOneSharedSQL"] = one
	shared := maps.Clone(sc.of["appendSQL"])
	maps.Copy(shared, map[string]string{"13": "x", "14": set(me), "15": "{phone1}", "16": "{99}"})
	sc.of["appendSharedSQL"] = shared
}

// costs is what statements have read: rows of tables, and pages of them and their indexes.
type costs struct {
	rows, blocks float64
	whole        bool     // a table is read as a whole, or would have been
	by           []string // what each node of the plan has read
}

func (c *costs) add(p *plan) {
	if p.Table != "" || p.Index != "" {
		rows := (p.Rows + p.Removed) * max(1, p.Loops)
		c.rows += rows
		c.whole = c.whole || p.Type == "Seq Scan" && p.Table != "sync_origin" || strings.HasPrefix(p.Type, "Index") && p.Cond == ""
		c.by = append(c.by, strings.TrimSpace(fmt.Sprintf("%s %s %s: %v rows", p.Type, p.Table, p.Index, rows)))
	}
	for i := range p.Plans {
		c.add(&p.Plans[i])
	}
}

// numbered returns the statement with its arguments numbered, and their literals.
func (sc *scenery) numbered(t *testing.T, st store.Statement) (statement string, literals []string) {
	t.Helper()
	literal := func(name string) {
		v, ok := sc.of[st.Name][name]
		if !ok {
			v, ok = sc.values[name]
		}
		if !ok {
			t.Errorf("%s: give its argument %s a value", st.Name, name)
		}
		if v != "NULL" {
			v = "'" + v + "'"
		}
		literals = append(literals, v)
	}
	place := map[string]int{}
	statement = namedArgument.ReplaceAllStringFunc(st.SQL, func(text string) string {
		before, name, _ := strings.Cut(text, "@")
		if place[name] == 0 {
			literal(name)
			place[name] = len(literals)
		}
		return before + "$" + strconv.Itoa(place[name])
	})
	if len(literals) == 0 { // they are numbered already
		for n := 1; strings.Contains(statement, "$"+strconv.Itoa(n)); n++ {
			literal(strconv.Itoa(n))
		}
	}
	return statement, literals
}

var namedArgument = regexp.MustCompile(`(^|[^@<])@([a-z_]+)`)

// costsOf runs a statement, undoes what it has done, and returns what it has read.
func (sc *scenery) costsOf(t *testing.T, st store.Statement, mode string) (c costs) {
	t.Helper()
	statement, literals := sc.numbered(t, st)
	call := "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE planned"
	if len(literals) > 0 {
		call += " (" + strings.Join(literals, ", ") + ")"
	}
	conn, err := sc.s.Pool().Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	undo := errors.New("nothing is to be kept")
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		for _, q := range []string{"DEALLOCATE ALL", "SET LOCAL plan_cache_mode = " + mode, "PREPARE planned AS " + statement} {
			if _, err := tx.Exec(t.Context(), q, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		var plans []struct{ Plan plan }
		if err := tx.QueryRow(t.Context(), call, pgx.QueryExecModeSimpleProtocol).Scan(&plans); err != nil {
			return err
		}
		p := &plans[0].Plan
		c.blocks = p.Hit + p.Read
		c.add(p)
		return undo
	})
	if !errors.Is(err, undo) {
		t.Errorf("%s: %v", st.Name, err)
	}
	return c
}

// What a user waits for reads what it needs, by the index that is there for it, whatever
// PostgreSQL knows of the tables: nothing, as in the first minute of an installation or after an
// import or a restore; what was true when they were almost empty; or how things are.
func TestStatementsReadLittle(t *testing.T) {
	t.Parallel()
	// No table has fewer rows than the first, but for the nodes and what only operators read. The largest page, of
	// profiles, reads most of it.
	const mostRows, mostBlocks = 1800, 2500
	check := func(t *testing.T, sc *scenery) {
		t.Helper()
		for _, st := range store.Statements {
			if st.Class != store.Hot && st.Class != store.Warm && !connecting[st.Name] || st.Name == "lookBehindSQL" { // looks at all conversations, a page at a time

				continue
			}
			for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
				if c := sc.costsOf(t, st, mode); c.rows > mostRows || c.blocks > mostBlocks || c.whole {
					t.Errorf("%s, %s: reads %v rows on %v pages: %s", st.Name, mode, c.rows, c.blocks, strings.Join(c.by, "; "))
				}
			}
		}
	}
	t.Run("never analysed", func(t *testing.T) {
		t.Parallel()
		sc := newScenery(t)
		sc.fill(t)
		check(t, sc)
	})
	t.Run("analysed when emptied", func(t *testing.T) {
		t.Parallel()
		sc := newScenery(t)
		sc.run(t, everydaySQL, pgx.NamedArgs{"n": 800})
		sc.run(t, emptySQL, nil)
		exec(t, sc.s, `ANALYZE`)
		sc.fill(t)
		check(t, sc)
	})
	t.Run("analysed", func(t *testing.T) {
		t.Parallel()
		sc := newScenery(t)
		sc.run(t, everydaySQL, pgx.NamedArgs{"n": 8})
		exec(t, sc.s, `ANALYZE`)
		sc.fill(t)
		t.Run("when tiny", func(t *testing.T) { check(t, sc) }) //nolint:paralleltest // it is followed by another state of the same database
		exec(t, sc.s, `ANALYZE`)
		t.Run("since", func(t *testing.T) { check(t, sc) }) //nolint:paralleltest // likewise
	})
}

// connecting are run by the server itself, when a user connects, subscribes or is told of others, or a node has died.
var connecting = map[string]bool{"acquaintedPairSQL": true, "listContactPresencesSQL": true, "deletePlacesSQL": true, "changedPresencesSQL": true, "contactChangesSQL": true}
