package main

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

// parley runs a command line as a process would.
func parley(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), terminal{In: strings.NewReader(stdin), Out: &out, Err: &errs}, args)
	return code, out.String(), errs.String()
}

const password = "correct horse battery"

func TestUserAndToken(t *testing.T) {
	dsn := storetest.DSN(t)
	t.Setenv("DATABASE_URL", dsn)
	db := storetest.Open(t, dsn)
	accounts, err := identity.New(identity.Options{Store: db})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		stdin, args string
		code        int
		want        string // a pattern for all of standard output, or of standard error when it fails
	}{
		{"", "user list", 0, `USERNAME +NAME +EMAIL +CREATED +STATUS +ID\n`},
		{password + "\n", "user add alice --email alice@example.org --display-name Alice --admin --password-stdin", 0, `Added alice \([0-9a-f-]{36}\)\.\n`},
		{password, "user add bob --password-stdin --json", 0, `\{"id":"[0-9a-f-]{36}","username":"bob","displayName":"bob","createdAt":"[0-9-]{10}T[0-9:.]{12}Z"\}\n`},
		{password, "user add alice --password-stdin", 1, `parley: username: is taken\n`},
		{password, "user add Alice --password-stdin", 1, `parley: username: must have 2 to 32 .*\n`},
		{"short\r\n", "user add carl --password-stdin", 1, `parley: password: must have 8 to 1024 bytes\n`},
		{strings.Repeat("x", 5000), "user add carl --password-stdin", 1, `parley: password: must have 8 to 1024 bytes\n`},
		{"", "user add carl", 1, `parley: standard input is not a terminal .*--password-stdin\n`},
		{"", "user add carl --password secret12", 2, `parley: unknown flag --password.*\n`},
		{"", "user list", 0, `USERNAME +NAME +EMAIL +CREATED +STATUS +ID\nalice +Alice +alice@example.org +[0-9-]{10} +admin +[0-9a-f-]{36}\nbob +bob +[0-9-]{10} +active +[0-9a-f-]{36}\n`},
		{"", "user disable bob", 0, `bob is disabled\.\n`},
		{"", "user list --json", 0, `\{.*"username":"alice".*\}\n\{.*"username":"bob".*"disabledAt":"[^"]+"\}\n`},
		{"", "token bob", 1, `parley: user: bob is disabled\n`},
		{"", "user enable bob", 0, `bob is enabled and can log in\.\n`},
		{"", "user disable nobody", 1, `parley: .*there is no such user\n`},
		{"a quite new one\r\n", "user passwd bob --password-stdin", 0, `bob has a new password; their sessions have ended\.\n`},
		{"", "user passwd nobody --password-stdin", 1, `parley: .*there is no such user\n`},
		{"", "token bob --ttl 9000h", 1, `parley: ttl: must be 1s to 720h0m0s\n`},
		{"", "token nobody", 1, `parley: .*there is no such user\n`},
		{"", "nonsense", 2, `parley: unexpected argument nonsense .*\n`},
	} {
		code, stdout, stderr := parley(t, step.stdin, strings.Fields(step.args)...)
		got := stdout
		if step.code != 0 {
			got = stderr
			if stdout != "" {
				t.Errorf("parley %s failed and wrote %q", step.args, stdout)
			}
		}
		if code != step.code || !regexp.MustCompile(`\A(?:`+step.want+`)\z`).MatchString(got) {
			t.Errorf("parley %s = %d %q, want %d %q", step.args, code, got, step.code, step.want)
		}
	}
	if _, err := accounts.VerifyPassword(t.Context(), "bob", "a quite new one"); err != nil {
		t.Errorf("bob's new password: %v", err)
	}
	if p, err := accounts.VerifyPassword(t.Context(), "alice@example.org", password); err != nil || !p.Admin {
		t.Errorf("alice: %+v, %v", p, err)
	}

	code, token, note := parley(t, "", "token", "alice", "--ttl", "24h")
	if code != 0 || strings.Count(token, "\n") != 1 || !strings.HasPrefix(note, "Good until ") {
		t.Fatalf("parley token = %d %q %q", code, token, note)
	}
	p, err := accounts.VerifyToken(t.Context(), strings.TrimSpace(token))
	if err != nil || p.Username != "alice" || !p.Admin {
		t.Errorf("VerifyToken = %+v, %v", p, err)
	}
	code, out, _ := parley(t, "", "token", "bob", "--json", "--token-audience", "elsewhere")
	var made struct{ AccessToken, ExpiresAt string }
	if err := json.Unmarshal([]byte(out), &made); code != 0 || err != nil || made.ExpiresAt == "" {
		t.Fatalf("parley token --json = %d %q, %v", code, out, err)
	}
	if _, err := accounts.VerifyToken(t.Context(), made.AccessToken); chat.CodeOf(err) != chat.Unauthenticated {
		t.Errorf("a token for another audience: %v", err)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"--help", "user --help", "user add --help", "token --help", "--version"} {
		if code, out, errs := parley(t, "", strings.Fields(args)...); code != 0 || out == "" || errs != "" {
			t.Errorf("parley %s = %d %q %q", args, code, out, errs)
		}
	}
	if code, _, errs := parley(t, ""); code != 2 || errs == "" {
		t.Errorf("parley without a command = %d %q, want 2 and a hint", code, errs)
	}
}
