package campaign

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/parleymq/parley/pgchild"
)

// postgres is the campaign's own PostgreSQL, with full durability. The server
// reaches it through a proxy.
type postgres struct {
	dir string

	mu    sync.Mutex
	child *pgchild.Server // mu guards; nil: stopped
}

func (p *postgres) start(ctx context.Context) error {
	child, err := pgchild.New(pgchild.Options{Dir: filepath.Join(p.dir, "postgres"), Settings: []string{
		"shared_buffers=64MB", "log_lock_waits=on", "log_min_duration_statement=3000", // for whoever asks afterwards what took so long
	}})
	if err != nil {
		return err
	}
	if err := child.Start(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	p.child = child
	p.mu.Unlock()
	return nil
}

func (p *postgres) stop(ctx context.Context) error {
	p.mu.Lock()
	child := p.child
	p.child = nil
	p.mu.Unlock()
	if child == nil {
		return nil
	}
	return child.Stop(ctx)
}

// kill ends the postmaster at once; its supervisor starts another.
func (p *postgres) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != nil && p.child.PID() > 0 {
		_ = syscall.Kill(p.child.PID(), syscall.SIGKILL)
	}
}

func (p *postgres) dsn() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child == nil {
		return ""
	}
	return p.child.DSN()
}

func (p *postgres) dial() (net.Conn, error) {
	return net.DialTimeout("unix", filepath.Join(p.dir, "postgres", "run", ".s.PGSQL.5432"), time.Second)
}
