package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/parleymq/parley/programtest"
)

// What README.md tells a newcomer to type is typed here, letter by letter, against
// a server on other ports: the clients learn of those from their own configuration
// files. Then its programs are run.
func TestREADME(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"bash", "curl", "mosquitto_pub", "mosquitto_sub", "stdbuf"} {
		programtest.Path(t, name)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	walk := section(t, string(readme), "Two people talk")
	blocks := fenced(walk, "sh")
	if len(blocks) != 5 || !strings.HasPrefix(blocks[1], "mosquitto_sub ") || !strings.HasPrefix(blocks[4], "mosquitto_sub ") {
		t.Fatalf("README.md has %d blocks to type, of which the second and the last are Bob's:\n%s", len(blocks), strings.Join(blocks, "--\n"))
	}
	accounts, listen, hello, later, lasting := blocks[0], blocks[1], blocks[2], blocks[3], blocks[4]

	s := serve(t, []string{"PARLEY_DATA=" + dataDir(t)})
	home := s.home(t)

	out := shell(t, home, accounts+"\necho; echo conv=$conv token=$token")
	found := regexp.MustCompile(`conv=([0-9a-f-]{36}) token=(\S+)`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("making accounts and a conversation printed\n%s", out)
	}
	conv, token := found[1], found[2]
	vars := "api=http://localhost:8080/api\nconv=" + conv + "\ntoken=" + token + "\n"

	start := func(command string) *listener {
		l := newListener(exec.CommandContext(t.Context(), programtest.Path(t, "bash"), "-c", "exec stdbuf -oL "+command))
		l.cmd.Env = home
		l.start(t)
		return l
	}
	bob := start(listen)
	if out := shell(t, home, vars+hello); out != "" {
		t.Errorf("Ann's hello printed %s", out)
	}
	var heard message
	if err := json.Unmarshal([]byte(bob.Line(t)), &heard); err != nil || heard.Content != "Hello, Bob." || heard.Seq != 2 || heard.ConversationID != conv {
		t.Errorf("Bob heard %+v, %v", heard, err)
	}
	bob.Stop()
	var page struct{ Data []message }
	if err := json.Unmarshal([]byte(shell(t, home, vars+later)), &page); err != nil || len(page.Data) != 1 || page.Data[0].ID != heard.ID {
		t.Errorf("the history is %+v, %v", page, err)
	}

	// Bob is away, with a session that lasts.
	start(lasting).Stop()
	if out := shell(t, home, vars+hello); out != "" {
		t.Errorf("Ann's hello printed %s", out)
	}
	bob = start(lasting)
	if err := json.Unmarshal([]byte(bob.Line(t)), &heard); err != nil || heard.Content != "Hello, Bob." || heard.Seq != 3 {
		t.Errorf("Bob missed what was said while he was away, and heard %+v, %v", heard, err)
	}
	bob.Stop()

	// A newcomer types things twice.
	if again := shell(t, home, accounts+"\necho; echo conv=$conv"); !strings.Contains(again, "conv="+conv) || !strings.Contains(again, `"conflict"`) {
		t.Errorf("the second time it printed\n%s", again)
	}

	programs := fenced(string(readme), "go")
	if len(programs) != 2 {
		t.Fatalf("README.md has %d programs, want the client's and paho's", len(programs))
	}
	for range 2 { // and runs it twice
		out := runProgram(t, strings.Replace(programs[1], `"localhost:1883"`, `"`+s.MQTT+`"`, 1), conv)
		if !regexp.MustCompile(`^stored as number 4 with id [0-9a-f-]{36}\n$`).MatchString(out) {
			t.Errorf("the program printed %q", out)
		}
	}
	if history := s.history(t, token, conv); len(history) != 3 || history[2].Content != "Hello from Go." {
		t.Errorf("the history is %+v", history)
	}
	for n := range 2 {
		out := runProgram(t, strings.Replace(programs[0], `"http://localhost:8080"`, `"http://`+s.HTTP+`"`, 1), conv)
		if want := fmt.Sprintf("stored as number %d\nheard: Hello from the client.\n", 5+n); out != want {
			t.Errorf("the client's program printed %q, want %q", out, want)
		}
	}
}

// Every flag of serve is in README.md's table, with its variable.
func TestREADMEConfiguration(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	table := section(t, string(readme), "Configuration")
	help, _, code := run(t, nil, "", "serve", "--help")
	if code != 0 {
		t.Fatal("parley serve --help exited with", code)
	}
	help = strings.Join(strings.Fields(help), " ")
	flags := regexp.MustCompile(`--([a-z-]+)(?:=\S+)? [^$]*?\(\$([A-Z_]+)\)`).FindAllStringSubmatch(help[strings.Index(help, "--database"):], -1)
	if len(flags) < 10 {
		t.Fatalf("found %d flags in %s", len(flags), help)
	}
	for _, f := range flags {
		if !strings.Contains(table, "`--"+f[1]+"` | `"+f[2]+"`") {
			t.Errorf("README.md lacks --%s, %s", f[1], f[2])
		}
	}
	if rows := strings.Count(table, "\n| `--"); rows != len(flags) {
		t.Errorf("README.md has %d flags, serve %d", rows, len(flags))
	}
}

// section is what follows a heading, up to the next.
func section(t testing.TB, text, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("README.md has no section %q", heading)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	return rest
}

// fenced returns the blocks of code in a language.
func fenced(text, language string) []string {
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```"+language+"\n(.*?)^```$").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// home is an environment whose home directory tells curl and mosquitto's clients
// where the server really is.
func (s *server) home(t testing.TB) []string {
	t.Helper()
	dir := t.TempDir()
	host, port, err := net.SplitHostPort(s.MQTT)
	if err != nil {
		t.Fatal(err)
	}
	mosquitto := fmt.Sprintf("-h %s\n-p %s\n", host, port)
	for name, text := range map[string]string{
		".curlrc":       fmt.Sprintf("connect-to = \"localhost:8080:%s\"\nnoproxy = \"*\"\n", s.HTTP),
		"mosquitto_pub": mosquitto, "mosquitto_sub": mosquitto + "-d\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return append(environ(), "HOME="+dir, "CURL_HOME="+dir, "XDG_CONFIG_HOME="+dir)
}

// shell types commands and returns what they print.
func shell(t testing.TB, env []string, commands string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, programtest.Path(t, "bash"), "-eu", "-o", "pipefail")
	cmd.Env, cmd.Stdin = env, strings.NewReader(commands)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s\nprinted\n%s", err, commands, out)
	}
	return string(out)
}

// runProgram runs a program with the modules of this one and returns what it prints.
func runProgram(t testing.TB, source string, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"run", file}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("go run: %v\n%s", err, out)
	}
	return string(out)
}
