package storetest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/parleymq/parley/programtest"
)

// PgBouncer returns how to connect to the database at dsn through a PgBouncer in the pool mode
// ("session", "transaction" or "statement"), with lines of its configuration beside. It is as
// installed: whatever startup parameter it does not know, it refuses. It ends with the test.
func PgBouncer(t testing.TB, dsn, mode string, lines ...string) string {
	t.Helper()
	path := programtest.Path(t, "pgbouncer")
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	server := fmt.Sprintf("host=127.0.0.1 port=%d user=%s", relay(t, config), config.User)
	if config.Password != "" {
		server += " password=" + config.Password
	}
	ini := fmt.Sprintf("[databases]\n%s = %s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = any\npool_mode = %s\n",
		config.Database, server, port, mode)
	for _, l := range lines {
		ini += l + "\n"
	}
	dir, err := os.MkdirTemp("", "parley-pgbouncer-") // unlike t.TempDir, in a folder that others can walk to
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(ini), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if os.Getuid() == 0 { // which it refuses
		const nobody = 65534
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
		for _, name := range []string{dir, file} {
			if err := os.Chown(name, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { // ends with the process
		_ = cmd.Wait() // killed
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-exited
		_ = log.Close()
	})
	through := fmt.Sprintf("postgres://parley@127.0.0.1:%d/%s?sslmode=disable", port, config.Database)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = conn.Close()
			return through
		}
		select {
		case <-time.After(5 * time.Millisecond):
			continue
		case <-exited:
		case <-ctx.Done():
		}
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("pgbouncer does not answer: %v\n%s", err, said)
	}
}

// relay returns a port of this machine that leads to a server, also where that is a socket in a
// folder that only we can walk to.
func relay(t testing.TB, config *pgx.ConnConfig) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { _ = l.Close(); all.Wait() })
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	all.Go(func() { // ends with the listener
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial(network, address)
			if err != nil {
				_ = from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				all.Go(func() { // ends with either connection
					_, _ = io.Copy(pair[0], pair[1])
					_ = from.Close()
					_ = to.Close()
				})
			}
		}
	})
	return l.Addr().(*net.TCPAddr).Port
}

// freePort is a port of this machine on which nobody listens.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
