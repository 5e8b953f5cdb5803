package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/cluster/redistest"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// A rolling upgrade has the release before and this one on one database, and may be
// taken back. So the binary of the release before serves, in turn with this one, the
// schema that this one makes: what each has stored the other one shows, by every door,
// and the oracle finds nothing wrong in the end.
//
// The release before is the newest tag v* below this commit. Where there is none, it
// is the first commit whose binaries can be told that a newer schema is good for them.
func TestTheReleaseBefore(t *testing.T) {
	t.Parallel()
	old := previous(t)
	dsn := storetest.DSN(t)
	execSQL(t, dsn, `DROP SCHEMA public CASCADE; CREATE SCHEMA public`)
	env := []string{"DATABASE_URL=" + dsn}

	var w world
	for i, binary := range []string{old, "", old, ""} { // "" is this one
		s := serveBinary(t, binary, env)
		if i == 0 {
			w.make(t, s)
		}
		w.live(t, s, fmt.Sprint("turn", i))
		s.Stop(syscall.SIGTERM)
	}
	// And both at once, as two nodes: what is said at either is heard at the other.
	redis := redistest.Start(t)
	env = append(env, "REDIS_URL="+redis.URL(), "PARLEY_DRAIN=0s")
	older := serveBinary(t, old, append(slices.Clone(env), "PARLEY_NODE=older"))
	newer := serveBinary(t, "", append(slices.Clone(env), "PARLEY_NODE=newer"))
	for i, pair := range [][2]*server{{older, newer}, {newer, older}} {
		w.meet(t, pair[0], pair[1], fmt.Sprint("meeting", i))
	}
	w.live(t, older, "older")
	w.live(t, newer, "newer")
	older.Stop(syscall.SIGTERM)
	newer.Stop(syscall.SIGTERM)
	if out, stderr, code := run(t, env, "", "verify"); code != 0 {
		t.Errorf("parley verify: %d\n%s%s", code, out, stderr)
	}
}

// world is two users, what they have said, and how far one of them has followed it.
type world struct {
	ann, bob      user
	direct, group string
	said          map[string][]string // contents, by conversation
	cursor        string              // of bob's sync
}

func (w *world) make(t *testing.T, s *server) {
	w.ann, w.bob = s.user(t, "ann"), s.user(t, "bob")
	w.direct = s.direct(t, w.ann, w.bob)
	var c struct{ ID string }
	s.rest(t, w.ann.Token, http.MethodPost, "/api/conversations", map[string]any{"userIds": []string{w.bob.ID}, "title": "all"}, http.StatusCreated, &c)
	w.group, w.said = c.ID, map[string][]string{}
}

// live has everything happen that a client does, and looks at everything that has.
func (w *world) live(t *testing.T, s *server, turn string) {
	t.Helper()
	for _, u := range []*user{&w.ann, &w.bob} { // a token lives for 15 minutes, and a slow machine longer
		var session struct{ AccessToken string }
		s.rest(t, "", http.MethodPost, "/api/sessions", map[string]string{"username": u.Name, "password": password}, http.StatusCreated, &session)
		u.Token = session.AccessToken
	}
	// A session that every binary takes over from the other one.
	bob := brokertest.Dial(t, s.MQTT)
	ack := bob.MustConnect(brokertest.Connect{ClientID: "phone", Password: w.bob.Token, Persistent: true, SessionExpiry: 86400})
	if first := len(w.said) == 0; ack.SessionPresent == first {
		t.Errorf("%s: session present is %v", turn, ack.SessionPresent)
	} else if first {
		bob.MustSubscribe(1, "conv/+/messages")
	}
	bob.AutoAck = true
	ann := brokertest.Open(t, s.MQTT, brokertest.Connect{ClientID: "laptop", Password: w.ann.Token})
	for _, conv := range []string{w.direct, w.group} {
		content := turn + " over MQTT"
		if ack := ann.Publish(1, "conv/"+conv+"/messages", content); ack.Code != 0 || ack.Seq == 0 {
			t.Fatalf("%s: acknowledged with %+v", turn, ack)
		}
		w.said[conv] = append(w.said[conv], content)
		awaitText(t, bob, content)
		content = turn + " over REST"
		var m message
		s.rest(t, w.ann.Token, http.MethodPost, "/api/messages", map[string]string{"conversationId": conv, "content": content}, http.StatusCreated, &m)
		w.said[conv] = append(w.said[conv], content)
		awaitText(t, bob, content)
		s.rest(t, w.bob.Token, http.MethodPost, "/api/conversations/"+conv+"/read", map[string]int64{"upTo": m.Seq}, http.StatusNoContent, nil)
		s.rest(t, w.bob.Token, http.MethodPut, "/api/messages/"+m.ID+"/reactions/"+url.PathEscape("👍"), nil, http.StatusNoContent, nil)
		s.rest(t, w.ann.Token, http.MethodPatch, "/api/messages/"+m.ID, map[string]string{"content": content + ", edited"}, http.StatusOK, nil)
		w.said[conv][len(w.said[conv])-1] += ", edited"
	}
	// Somebody new, with this turn's binary, joins and leaves the group.
	eve := s.user(t, "eve"+turn)
	s.rest(t, w.ann.Token, http.MethodPost, "/api/conversations/"+w.group+"/participants", map[string]any{"userIds": []string{eve.ID}}, http.StatusOK, nil)
	s.rest(t, eve.Token, http.MethodDelete, "/api/conversations/"+w.group+"/participants/"+eve.ID, nil, http.StatusNoContent, nil)

	for conv, want := range w.said {
		var got []string
		for _, m := range s.history(t, w.bob.Token, conv) {
			got = append(got, m.Content)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: the history is %q, want %q", turn, got, want)
		}
	}
	w.follow(t, s, turn)
	w.search(t, s, turn)
	ann.Disconnect()
	bob.Close() // there is more than was waited for
}

// meet has bob at one node hear what ann says at another one.
func (w *world) meet(t *testing.T, at, from *server, turn string) {
	t.Helper()
	bob := brokertest.Open(t, at.MQTT, brokertest.Connect{ClientID: turn, Password: w.bob.Token})
	bob.AutoAck = true
	bob.MustSubscribe(1, "conv/+/messages")
	ann := brokertest.Open(t, from.MQTT, brokertest.Connect{ClientID: turn, Password: w.ann.Token})
	if ack := ann.Publish(1, "conv/"+w.direct+"/messages", turn); ack.Code != 0 || ack.Seq == 0 {
		t.Fatalf("%s: acknowledged with %+v", turn, ack)
	}
	w.said[w.direct] = append(w.said[w.direct], turn)
	awaitText(t, bob, turn)
	ann.Disconnect()
	bob.Close()
}

// awaitText waits for a message of that content.
func awaitText(t *testing.T, c *brokertest.Client, content string) {
	t.Helper()
	for {
		pk, err := c.Recv(brokertest.Patience)
		if err != nil {
			t.Fatalf("waiting for %q: %v", content, err)
		}
		if bytes.Contains(pk.Payload, []byte(`"content":"`+content+`"`)) {
			return
		}
	}
}

// follow reads what has changed for bob since the last turn, by the cursor of the
// other binary.
func (w *world) follow(t *testing.T, s *server, turn string) {
	t.Helper()
	var all strings.Builder
	for more := true; more; {
		var page struct {
			Data       []struct{ Event struct{ Content string } }
			NextCursor string
			HasMore    bool
		}
		path := "/api/sync"
		if w.cursor != "" {
			path += "?cursor=" + url.QueryEscape(w.cursor)
		}
		s.rest(t, w.bob.Token, http.MethodGet, path, nil, http.StatusOK, &page)
		w.cursor = page.NextCursor
		more = page.HasMore
		for _, item := range page.Data {
			fmt.Fprintln(&all, item.Event.Content)
		}
	}
	for _, want := range w.said[w.group][len(w.said[w.group])-2:] {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%s: the sync does not tell of %q:\n%s", turn, want, all.String())
		}
	}
}

// search finds what was said in every turn so far, once the index has followed.
func (w *world) search(t *testing.T, s *server, turn string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		var page struct{ Data []struct{ Content string } }
		s.rest(t, w.bob.Token, http.MethodGet, "/api/messages/search?limit=100&q=edited", nil, http.StatusOK, &page)
		want := 0
		for _, said := range w.said {
			for _, content := range said {
				want += strings.Count(content, "edited")
			}
		}
		if len(page.Data) == want {
			return
		}
	}
	t.Errorf("%s: the search does not find all that was said", turn)
}

// previous builds the binary of the release before, and returns its path.
func previous(t *testing.T) string {
	t.Helper()
	program := programtest.Path(t, "git")
	git := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), program, append([]string{"-C", "../.."}, args...)...).Output()
		return strings.TrimSpace(string(out)), err
	}
	if shallow, err := git("rev-parse", "--is-shallow-repository"); err != nil || shallow != "false" {
		programtest.Missing(t, "git", fmt.Sprintf("the release before cannot be built: this is no clone with its history (%v)", err))
	}
	commit, err := git("describe", "--tags", "--abbrev=0", "--match=v*", "HEAD^")
	if err != nil {
		all, err := git("log", "--diff-filter=A", "--format=%H", "--", "store/compatibility.go")
		commits := strings.Fields(all)
		if err != nil || len(commits) == 0 {
			programtest.Missing(t, "git", fmt.Sprintf("there is no release before this one, and no commit that stands for it: %v", err))
		}
		commit = commits[len(commits)-1]
	}
	t.Logf("the release before is %s", commit)
	dir := t.TempDir()
	var archived, extracted bytes.Buffer
	archive := exec.CommandContext(t.Context(), program, "-C", "../..", "archive", commit)
	extract := exec.CommandContext(t.Context(), programtest.Path(t, "tar"), "-x", "-C", dir)
	extract.Stdin, err = archive.StdoutPipe()
	archive.Stderr, extract.Stderr = &archived, &extracted
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(extract.Start(), archive.Run(), extract.Wait()); err != nil {
		t.Fatalf("git archive %s: %v\n%s%s", commit, err, archived.String(), extracted.String())
	}
	path := filepath.Join(dir, "parley-before")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "./cmd/parley")
	build.Dir = dir // without the path in it, what was compiled once is found again
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build of %s: %v\n%s", commit, err, out)
	}
	return path
}
