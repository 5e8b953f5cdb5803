package pgchild_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/parleymq/parley/pgchild"
)

// playParent is a parley that stores numbers and prints each once it is committed, until killed.
func playParent(role string) error {
	if role == "watchdog" {
		pgchild.ForceWatchdog()
	}
	ctx := context.Background()
	began := time.Now()
	s, err := pgchild.New(pgchild.Options{Dir: os.Args[1]})
	if err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	fmt.Println("ready", time.Since(began).Milliseconds())
	conn, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS acked (n bigint GENERATED ALWAYS AS IDENTITY, tag text)"); err != nil {
		return err
	}
	for i := 0; ; i++ {
		tag := fmt.Sprintf("%d-%d", os.Getpid(), i)
		if _, err := conn.Exec(ctx, "INSERT INTO acked (tag) VALUES ($1)", tag); err != nil {
			return err
		}
		fmt.Println("acked", tag)
	}
}

// Killed with SIGKILL and started again at once, several times: the server goes down with its parent, the
// next one gets through, and what was committed is there.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"signal", "watchdog"} {
		t.Run(role, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t)
			var acked []string
			for range 4 {
				acked = append(acked, killParent(t, role, dir)...)
			}
			if len(acked) < 40 {
				t.Fatalf("only %d acked", len(acked))
			}
			s := start(t, pgchild.Options{Dir: dir})
			found := map[string]int{}
			for tag := range strings.FieldsSeq(mustQuery(t, s, "SELECT tag FROM acked")) {
				found[tag]++
			}
			for _, tag := range acked {
				if found[tag] != 1 {
					t.Errorf("%s was committed and is found %d times", tag, found[tag])
				}
			}
		})
	}
}

// Killed while initdb is at work, which leaves a half-made cluster that nobody must ever use.
func TestParentKilledInitdb(t *testing.T) {
	t.Parallel()
	needPostgres(t)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), roleEnv+"=signal")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	halfMade := func() []string {
		m, _ := filepath.Glob(filepath.Join(dir, "data.new-*", "base"))
		return m
	}
	eventually(t, "initdb is at work", func() bool { return len(halfMade()) > 0 })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	for range 2 { // the first may still meet a dying program that writes there
		s := start(t, pgchild.Options{Dir: dir})
		mustQuery(t, s, "SELECT 'up'")
		stop(t, s)
	}
	if left := halfMade(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// killParent runs a parent until it has committed something, kills it and returns all it said it had
// committed.
func killParent(t *testing.T, role, dir string) (acked []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer guard.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ready":
			t.Logf("ready after %s ms", rest)
		case "acked":
			if acked = append(acked, rest); len(acked) == 20 {
				_ = cmd.Process.Kill()
			}
		default:
			t.Errorf("parent said %q", lines.Text())
		}
	}
	_ = cmd.Wait()
	return acked
}

// What depends on who we are, again as an ordinary user when the tests run as root.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("we are one")
	}
	t.Parallel()
	needPostgres(t)
	const nobody = 65534
	tmp, err := os.MkdirTemp("/tmp", "pgchild-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(tmp) })
	binary := filepath.Join(tmp, "pgchild.test")
	if err := errors.Join(copyFile(binary, os.Args[0]), os.Chown(tmp, nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run=^(TestCrashRestarts|TestParentKilled|TestRecycledPID|TestAwkwardPaths)$/^(signal|long)$",
		"-test.v", "-test.timeout=2m")
	cmd.Dir = tmp
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=" + tmp, "TMPDIR=" + tmp}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "--- SKIP") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func copyFile(to, from string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
