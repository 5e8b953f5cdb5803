package asyncapi_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleymq/parley/asyncapi"
	"github.com/parleymq/parley/asyncapi/asyncapitest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/programtest"
)

func document() []byte {
	return asyncapi.JSON("1.2.3")
}

func checker(t *testing.T) *asyncapitest.Checker {
	t.Helper()
	c, err := asyncapitest.New(document())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const parserDir = "testdata/parser"

// The document is valid in the judgement of AsyncAPI's own parser, which knows rules that
// the schema of AsyncAPI does not: references that lead somewhere, examples that fit,
// operations that name messages of their channel.
func TestParser(t *testing.T) {
	t.Parallel()
	install(t)
	file := filepath.Join(t.TempDir(), "asyncapi.json")
	if err := os.WriteFile(file, document(), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := node(t, file); err != nil {
		t.Errorf("the document is not valid: %v\n%s", err, out)
	}
	// That it finds something is shown with a document that it must refuse.
	broken := bytes.Replace(document(), []byte(`"#/channels/errors"`), []byte(`"#/channels/nowhere"`), 1)
	if err := os.WriteFile(file, broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := node(t, file); err == nil {
		t.Errorf("an operation on a channel that is not there is valid: %s", out)
	}
}

func node(t *testing.T, file string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), programtest.Path(t, "node"), "validate.mjs", file)
	cmd.Dir = parserDir
	return cmd.CombinedOutput()
}

// install fetches the parser in its pinned version, unless it is there.
func install(t *testing.T) {
	t.Helper()
	lock, err := os.ReadFile(filepath.Join(parserDir, "package-lock.json"))
	if err != nil {
		t.Fatal(err)
	}
	stamp := filepath.Join(parserDir, "node_modules", ".installed")
	if have, err := os.ReadFile(stamp); err == nil && bytes.Equal(have, lock) {
		return
	}
	cmd := exec.CommandContext(t.Context(), programtest.Path(t, "npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = parserDir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm ci in %s: %v\n%s", parserDir, err, out)
	}
	if err := os.WriteFile(stamp, lock, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every example is a payload that its own operation takes.
func TestExamples(t *testing.T) {
	t.Parallel()
	c, d := checker(t), asyncapi.Read()
	n := 0
	for _, o := range d.Operations {
		topic := strings.NewReplacer("{conversationId}", uuid, "{userId}", uuid).Replace(d.Channels.Get(o.Value.Channel.Name()).Address)
		for _, ref := range o.Value.Messages {
			m := d.Components.Messages.Get(ref.Name())
			for _, e := range m.Examples {
				payload := []byte(e.Payload)
				if m.ContentType == "text/plain" {
					var text string
					if err := json.Unmarshal(payload, &text); err != nil {
						t.Fatal(err)
					}
					payload = []byte(text)
				}
				if err := c.Check(o.Value.Action, topic, m.ContentType, payload); err != nil {
					t.Error(err)
				}
				n++
			}
		}
	}
	if n < 20 {
		t.Errorf("%d examples were looked at", n)
	}
}

// The server's own parsers and writers agree with the schemas, where the document can be
// asked without a server: commands that the document takes are taken, and the other way round.
func TestCommands(t *testing.T) {
	t.Parallel()
	c := checker(t)
	for _, tt := range []struct {
		payload string
		ok      bool
	}{
		{`hello`, true},
		{`"hello"`, true}, // a text that happens to be JSON
		{`[1]`, true},
		{`{"content":"x"}`, true},
		{`{"type":"message","content":"x"}`, true},
		{`{"content":"","attachments":["` + uuid + `"]}`, true},
		{`{}`, false},
		{`{"type":"message"}`, false},
		{`{"type":"shout","content":"x"}`, false},
		{`{"content":7}`, false},
		{`{"content":"x","clientMsgId":"X"}`, false},
		{`{"content":"x","replyTo":"` + strings.ToUpper(uuid) + `"}`, true},
		{`{"type":"edit","content":"x"}`, false},
		{`{"type":"edit","messageId":"` + uuid + `","content":""}`, false},
		{`{"type":"edit","messageId":"` + uuid + `","content":"x"}`, true},
		{`{"type":"delete","messageId":"` + uuid + `"}`, true},
		{`{"type":"delete"}`, false},
		{`{"type":"reaction","messageId":"` + uuid + `","emoji":"👍","op":"add"}`, true},
		{`{"type":"reaction","messageId":"` + uuid + `","emoji":"👍","op":"toggle"}`, false},
		{`{"type":"reaction","messageId":"` + uuid + `","op":"add"}`, false},
	} {
		_, refused := chat.ParseCommand([]byte(tt.payload), "")
		wrong := c.Check(asyncapi.Publish, "conv/"+uuid+"/messages", "", []byte(tt.payload))
		if (wrong == nil) != tt.ok || (refused == nil) != tt.ok {
			t.Errorf("%s: the document says %v, the parser %v, want ok %v", tt.payload, wrong, refused, tt.ok)
		}
	}
}

const uuid = "0198c0de-0000-7000-8000-000000000001"

// The checker finds what is wrong: a test that cannot fail shows nothing.
func TestChecker(t *testing.T) {
	t.Parallel()
	c := checker(t)
	const head = `"conversationId":"` + uuid + `","seq":7,"senderId":"` + uuid + `","createdAt":"2026-02-03T04:05:06.789Z","epoch":"k3v9x2ab"`
	message := `{"type":"message",` + head + `,"id":"` + uuid + `","clientMsgId":"` + uuid + `","content":"x"`
	topic := "conv/" + uuid + "/messages"
	for _, ok := range []string{message + `}`, message + `,"later":1}`, `{"type":"delete",` + head + `,"messageId":"` + uuid + `"}`} {
		if err := c.Check(asyncapi.Receive, topic, "", []byte(ok)); err != nil {
			t.Error(err)
		}
	}
	for _, tt := range []struct{ action, topic, payload, says string }{
		{asyncapi.Receive, topic, `hello`, "invalid character"},
		{asyncapi.Receive, topic, `{"type":"edit",` + head + `,"content":"x"}`, "messageId"},
		{asyncapi.Receive, topic, strings.Replace(message, `"seq":7`, `"seq":0`, 1) + `}`, "/seq"},
		{asyncapi.Receive, topic, strings.Replace(message, `.789Z`, `.78Z`, 1) + `}`, "/createdAt"},
		{asyncapi.Receive, topic, strings.Replace(message, `.789Z`, `.789+01:00`, 1) + `}`, "/createdAt"},
		{asyncapi.Receive, topic, strings.Replace(message, `message`, `nothing`, 1) + `}`, "no message has the type"},
		{asyncapi.Receive, "conv/" + uuid + "/nothing", message + `}`, "no such operation"},
		{asyncapi.Publish, "conv/" + uuid + "/delivered", `{"upTo":1}`, "no such operation"},
		{asyncapi.Publish, topic, `{"content":"x","contents":"y"}`, "contents"},
		{asyncapi.Publish, "conv/" + uuid + "/typing", `{"typing":"yes"}`, "/typing"},
		{asyncapi.Publish, "conv/" + uuid + "/reads", `{"upTo":1,"messageIds":["` + uuid + `"]}`, "upTo"},
	} {
		err := c.Check(tt.action, tt.topic, "", []byte(tt.payload))
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s %s %s: %v, want something about %q", tt.action, tt.topic, tt.payload, err, tt.says)
		}
	}
}
