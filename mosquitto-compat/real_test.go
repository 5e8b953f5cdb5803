package mosquitto_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/programtest"
)

// real is a running Mosquitto, on a unix socket.
type real struct {
	socket string
	cmd    *exec.Cmd
	log    *bufio.Scanner
}

// program returns where Mosquitto is installed, or skips the test.
func program(t testing.TB) string {
	t.Helper()
	return programtest.Path(t, "mosquitto")
}

// start runs Mosquitto with the lines, and a listener that comes last (%s is the path
// of its socket; without lines about one, it is added). It returns what Mosquitto said if it did not start.
func start(t testing.TB, conf string) (*real, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mosq") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &real{socket: filepath.Join(dir, "s")}
	file := filepath.Join(dir, "mosquitto.conf")
	text := strings.ReplaceAll(conf, "SOCKET", r.socket) + "\nlog_dest stderr\nlog_type all\n"
	if os.Getuid() == 0 {
		text += "user root\n" // or it could not read the test's files
	}
	write(t, file, text)
	r.cmd = exec.Command(program(t), "-c", file)
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill(); _ = r.cmd.Wait() })
	r.log = bufio.NewScanner(stderr)
	defer time.AfterFunc(brokertest.Patience, func() { _ = r.cmd.Process.Kill() }).Stop() // some configurations make it spin
	if said, ok := r.await("running"); !ok {
		return nil, said
	}
	return r, ""
}

// await reads the log until a line holds the words, or it ends.
func (r *real) await(words string) (said string, ok bool) {
	for r.log.Scan() {
		said += r.log.Text() + "\n"
		if strings.Contains(r.log.Text(), words) {
			return said, true
		}
	}
	return said, false
}

// quiet reads the rest of the log, so that nothing waits for it to be read.
func (r *real) quiet() {
	go func() { // ends with the process
		for r.log.Scan() { //nolint:revive // nothing to do
		}
	}()
}

func (r *real) reload(t testing.TB) {
	t.Helper()
	if err := r.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// dial opens a connection to it, and sends nothing.
func (r *real) dial(t testing.TB) *brokertest.Client {
	t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	return brokertest.New(t, conn)
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// file writes a text to a file of the test's.
func file(t testing.TB, text string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprint(f, text); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// divergences returns DIVERGENCES.md.
func divergences(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile("DIVERGENCES.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
