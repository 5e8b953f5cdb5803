package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

func add(ctx context.Context, s *store.Store, actor, c chat.ID, users ...chat.ID) (*chat.GroupChange, error) {
	return s.AddParticipants(ctx, chat.NewParticipants{Actor: actor, ConversationID: c, Users: users, Role: chat.GroupMember}, now)
}

func remove(ctx context.Context, s *store.Store, actor, c, user chat.ID) (*chat.GroupChange, error) {
	return s.RemoveParticipant(ctx, chat.ParticipantChange{Actor: actor, ConversationID: c, UserID: user}, now)
}

// What a change returns is what it stores: the events at the end of the log, the
// roster of the new version, and who sees the log from where.
func TestChangeGroup(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	u := users(t, s, 4)
	c := group(t, s, now, u[:2]...).ID
	post(t, s, c, u[0], 3) // to 4, of now + 3 s

	check := func(what string, change *chat.GroupChange, err error, version int64, members []chat.ID, details ...chat.EventDetail) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var got []chat.EventDetail
		for _, e := range change.Events {
			got = append(got, e.EventDetail)
		}
		if diff := cmp.Diff(details, got); diff != "" {
			t.Errorf("%s: events (-want +got):\n%s", what, diff)
		}
		all := log(t, s, members[0], c)
		if diff := cmp.Diff(change.Events, all[len(all)-len(change.Events):]); diff != "" && len(change.Events) > 0 {
			t.Errorf("%s: the end of the log (-returned +stored):\n%s", what, diff)
		}
		r, err := s.GetRoster(t.Context(), c)
		if err != nil || r.Version != version || !slices.Equal(r.Members, members) {
			t.Errorf("%s: roster %+v, %v; want %v at %d", what, r, err, members, version)
		}
		if change.Roster != nil {
			if diff := cmp.Diff(r, change.Roster, cmp.AllowUnexported(chat.Roster{})); diff != "" {
				t.Errorf("%s: roster (-stored +returned):\n%s", what, diff)
			}
		}
		if len(change.Events) > 0 && change.Version != version || (change.Roster != nil) != (len(change.Joined)+len(change.Left) > 0) {
			t.Errorf("%s: %+v", what, change)
		}
	}
	title, whole := "rowing", chat.HistoryAll
	rename := chat.ConversationUpdate{Actor: u[0], ConversationID: c, Title: &title, History: &whole}

	change, err := add(t.Context(), s, u[0], c, u[2], u[1])
	check("add", change, err, 2, u[:3], chat.EventDetail{Op: "joined", UserIDs: []chat.ID{u[2]}})
	if e := change.Events[0]; e.Seq != 5 || !e.CreatedAt.Equal(now.Add(3*time.Second)) || e.SenderID != u[0] {
		t.Errorf("joined is %+v", e) // not before the last event, though the clock says so
	}
	change, err = add(t.Context(), s, u[0], c, u[2], u[1])
	check("add again", change, err, 2, u[:3])
	change, err = s.UpdateConversation(t.Context(), rename, now)
	check("rename", change, err, 2, u[:3], chat.EventDetail{Op: "renamed", Title: title}, chat.EventDetail{Op: "history", History: whole})
	change, err = s.UpdateConversation(t.Context(), rename, now)
	check("rename again", change, err, 2, u[:3])
	if e := log(t, s, u[2], c); len(e) != 3 || e[0].Seq != 5 {
		t.Errorf("who joined at 5 sees %v", seqs(e))
	}
	change, err = add(t.Context(), s, u[0], c, u[3])
	check("add with history", change, err, 3, u, chat.EventDetail{Op: "joined", UserIDs: []chat.ID{u[3]}})
	if e := log(t, s, u[3], c); len(e) != 8 {
		t.Errorf("who joined with all of the history sees %v", seqs(e))
	}
	change, err = remove(t.Context(), s, u[1], c, u[1])
	check("leave", change, err, 4, []chat.ID{u[0], u[2], u[3]}, chat.EventDetail{Op: "left", UserIDs: []chat.ID{u[1]}})
	if n := count(t, s, `SELECT count(*) FROM departures WHERE user_id = $1 AND conversation_id = $2`, u[1], c); n != 1 {
		t.Errorf("%d departures", n)
	}
	change, err = remove(t.Context(), s, u[0], c, u[1])
	check("remove who has left", change, err, 4, []chat.ID{u[0], u[2], u[3]})
	role := func(user chat.ID, role chat.Role) (*chat.GroupChange, error) {
		return s.SetParticipantRole(t.Context(), chat.ParticipantChange{Actor: u[0], ConversationID: c, UserID: user, Role: role}, now)
	}
	change, err = role(u[3], chat.GroupAdmin)
	check("admin", change, err, 4, []chat.ID{u[0], u[2], u[3]}, chat.EventDetail{Op: "role", UserIDs: []chat.ID{u[3]}, Role: chat.GroupAdmin})
	change, err = role(u[3], chat.GroupAdmin)
	check("admin again", change, err, 4, []chat.ID{u[0], u[2], u[3]})
	change, err = remove(t.Context(), s, u[0], c, u[0])
	check("the owner leaves", change, err, 5, u[2:],
		chat.EventDetail{Op: "left", UserIDs: []chat.ID{u[0]}}, chat.EventDetail{Op: "role", UserIDs: []chat.ID{u[3]}, Role: chat.Owner})
	change, err = s.AddParticipants(t.Context(), chat.NewParticipants{Actor: u[3], ConversationID: c, Users: u[:1], Role: chat.GroupAdmin}, now)
	check("back as an admin", change, err, 6, []chat.ID{u[0], u[2], u[3]}, chat.EventDetail{Op: "joined", UserIDs: u[:1], Role: chat.GroupAdmin})
	if n := count(t, s, `SELECT count(*) FROM departures`); n != 1 {
		t.Errorf("%d departures", n)
	}

	var page []chat.ID
	for after, more := (chat.ID{}), true; more; {
		found, err := s.ListParticipants(t.Context(), u[0], c, after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			page, after = append(page, p.UserID), p.UserID
			if p.Username == "" || p.JoinedAt.IsZero() || p.Role == "" {
				t.Errorf("participant %+v", p)
			}
		}
		more = len(found) == 2
	}
	if !slices.Equal(page, []chat.ID{u[0], u[2], u[3]}) {
		t.Errorf("listed %v", page)
	}
	_, err = s.ListParticipants(t.Context(), u[1], c, chat.ID{}, 2)
	wantError(t, err, chat.NotFound, "conversationId")
	storetest.Check(t, s)
}

// Whatever is done to a group, at once from all sides, its log and its members agree:
// the log replayed gives the members and roles that are stored, everybody else is
// refused, and there is one owner as long as there is anybody.
func TestGroupHistories(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Options{DSN: storetest.DSN(t), MaxConns: 8})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	u := users(t, s, 8)
	for round := range 6 {
		c := group(t, s, now, u[:4]...).ID
		var wg sync.WaitGroup
		for i := range 6 {
			rnd := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			wg.Go(func() {
				for range 40 {
					actor, user := u[rnd.IntN(len(u))], u[rnd.IntN(len(u))]
					var err error
					switch rnd.IntN(6) {
					case 0, 1:
						_, err = add(t.Context(), s, actor, c, slices.Compact([]chat.ID{user, u[rnd.IntN(len(u))]})...)
					case 2:
						_, err = remove(t.Context(), s, actor, c, user)
					case 3:
						role := []chat.Role{chat.Owner, chat.GroupAdmin, chat.GroupMember}[rnd.IntN(3)]
						_, err = s.SetParticipantRole(t.Context(), chat.ParticipantChange{Actor: actor, ConversationID: c, UserID: user, Role: role}, now)
					case 4:
						title := fmt.Sprint(rnd.IntN(3))
						_, err = s.UpdateConversation(t.Context(), chat.ConversationUpdate{Actor: actor, ConversationID: c, Title: &title}, now)
					case 5:
						post(t, s, c, u[0], 1)
					}
					switch chat.CodeOf(err) {
					case "", chat.NotFound, chat.Forbidden, chat.Invalid:
					default:
						t.Errorf("%v", err)
					}
				}
			})
		}
		wg.Wait()
		compareGroup(t, s, c, u[:4])
	}
	storetest.Check(t, s)
}

// compareGroup replays the log and compares what it says with what is stored.
func compareGroup(t *testing.T, s *store.Store, c chat.ID, first []chat.ID) {
	t.Helper()
	exec(t, s, `INSERT INTO participants (conversation_id, user_id, role, joined_at, joined_seq) VALUES ($1, $2, 'member', now(), 1)`, c, chat.ID{1})
	events := log(t, s, chat.ID{1}, c) // as somebody who sees all of it
	exec(t, s, `DELETE FROM participants WHERE user_id = $1`, chat.ID{1})
	roles, title := map[chat.ID]chat.Role{}, "a group"
	joined := map[chat.ID]int64{}
	for _, id := range first {
		roles[id], joined[id] = chat.GroupMember, 1
	}
	roles[first[0]] = chat.Owner
	for _, e := range events {
		for _, id := range e.UserIDs {
			switch {
			case e.Op == "joined" && roles[id] == "":
				roles[id], joined[id] = chat.GroupMember, e.Seq
			case e.Op == "left" && roles[id] != "":
				delete(roles, id)
			case e.Op == "role" && roles[id] != "" && roles[id] != e.Role:
				roles[id] = e.Role
			case e.Op != "created":
				t.Fatalf("event %d, %+v, says what was so already", e.Seq, e.EventDetail)
			}
		}
		if e.Op == "renamed" {
			title = e.Title
		}
	}
	rows, err := s.Pool().Query(t.Context(), `SELECT user_id, role, joined_seq FROM participants WHERE conversation_id = $1`, c)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id chat.ID
		var role chat.Role
		var seq int64
		if err := rows.Scan(&id, &role, &seq); err != nil {
			t.Fatal(err)
		}
		if roles[id] != role || joined[id] != seq {
			t.Errorf("user %v is %s since %d, the log says %q since %d", id, role, seq, roles[id], joined[id])
		}
		delete(roles, id)
	}
	if len(roles) > 0 {
		t.Errorf("the log says these are members: %v", roles)
	}
	if n := count(t, s, `SELECT count(*) FROM conversations WHERE id = $1 AND title = $2`, c, title); n != 1 {
		t.Errorf("the title is not %q", title)
	}
}

// A group has at most 10,000 members. How long a change takes in one that large is in the log.
func TestLargestGroupChanges(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	exec(t, s, manyUsersSQL, chat.MaxGroupMembers+50)
	all := listIDs(t, s, `SELECT array_agg(id ORDER BY id) FROM users`)
	c := group(t, s, now, all[:chat.MaxGroupMembers-100]...).ID
	start := time.Now()
	change, err := add(t.Context(), s, all[0], c, all[chat.MaxGroupMembers-100:chat.MaxGroupMembers-1]...)
	if err != nil || len(change.Roster.Members) != chat.MaxGroupMembers-1 {
		t.Fatalf("added: %v", err)
	}
	added := time.Since(start)
	_, err = add(t.Context(), s, all[0], c, all[chat.MaxGroupMembers:chat.MaxGroupMembers+2]...)
	if e := wantError(t, err, chat.Conflict, "userIds"); !strings.Contains(e.Msg, "10000") {
		t.Errorf("the answer does not name the limit: %s", e.Msg)
	}
	if _, err = add(t.Context(), s, all[0], c, all[chat.MaxGroupMembers]); err != nil {
		t.Error(err)
	}
	start = time.Now()
	if _, err = remove(t.Context(), s, all[0], c, all[0]); err != nil { // who owns it
		t.Error(err)
	}
	t.Logf("adding 99 to %d took %v, removing one %v", chat.MaxGroupMembers-100, added, time.Since(start))
	storetest.Check(t, s)
}

// A change whose answer was lost is there, or not; AwaitRoster tells when the
// transaction has ended, and the version which.
func TestGroupChangeAnswerIsLost(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1})
	tx, err := r.s.Pool().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE conversations SET members_version = members_version + 1 WHERE id = $1`, r.conv); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = r.s.AwaitRoster(ctx, r.conv)
	wantError(t, err, chat.Unavailable, "")
	time.AfterFunc(50*time.Millisecond, func() { _ = tx.Commit(context.WithoutCancel(t.Context())) })
	roster, err := r.s.AwaitRoster(t.Context(), r.conv)
	if err != nil || roster.Version != 2 {
		t.Errorf("AwaitRoster = %+v, %v, want version 2", roster, err)
	}
	_, err = r.s.AwaitRoster(t.Context(), chat.NewID())
	var e *chat.Error
	if !errors.As(err, &e) || e.Code != chat.NotFound {
		t.Errorf("AwaitRoster of nothing: %v", err)
	}
	r.finish()
}

// The answer to a commit is lost, and its sender removed before it is tried again:
// the message was once refused although it was stored. What is refused is not there,
// and what is there was acknowledged.
func TestRemovedAfterTheAnswerWasLost(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1})
	owner, goes := r.members[0], r.members[2]
	outcomes := map[bool]int{}
	for range 4 {
		if _, err := add(t.Context(), r.s, owner, r.conv, goes); err != nil {
			t.Fatal(err)
		}
		roster, err := r.rules.Rosters.Reload(t.Context(), r.conv)
		if err != nil {
			t.Fatal(err)
		}
		release := r.hold()
		m, followed := r.message(goes, chat.ID{}, "goes"), r.message(goes, chat.ID{}, "goes too")
		m.MembersVersion, followed.MembersVersion = roster.Version, roster.Version
		r.append(m, followed)
		var wg sync.WaitGroup
		r.line.loseAnswer(2) // of the one in front, and then theirs
		release()
		wg.Go(func() {
			for n := 0; n == 0; { // as soon as they are stored
				n, _ = r.rows(m.Event.ClientMsgID)
			}
			if _, err := remove(t.Context(), r.s, owner, r.conv, goes); err != nil {
				t.Error(err)
			}
		})
		for _, o := range []*outcome{m, followed} {
			err := r.wait(o)
			n, seq := r.rows(o.Event.ClientMsgID)
			if (err == nil) != (n == 1) || n > 1 || err == nil && seq != o.Event.Seq {
				t.Errorf("told %v about event %d, and %d are stored, as %d", err, o.Event.Seq, n, seq)
			}
			outcomes[err == nil]++
		}
		wg.Wait()
	}
	t.Logf("%d acknowledged, %d refused", outcomes[true], outcomes[false])
	r.finish()
}
