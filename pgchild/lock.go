package pgchild

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/parleymq/parley/backoff"
)

const lockFile = "parley.lock"

// takeLock makes us the only Server on root, waiting up to limit for another to leave. The lock goes with
// the returned file, or with this process however it ends; children do not inherit it.
func takeLock(ctx context.Context, root *os.Root, limit time.Duration) (*os.File, error) {
	f, err := root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(limit); ; {
		switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
		case err == nil:
			// for the message below; nobody decides by it
			if err := f.Truncate(0); err == nil {
				_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
			}
			return f, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		case time.Now().After(deadline):
			err := fmt.Errorf("%w: another parley%s is running on %s; stop it, or use another directory", ErrInUse, holder(f), root.Name())
			return nil, errors.Join(err, f.Close())
		case !backoff.Sleep(ctx, 20*time.Millisecond):
			return nil, errors.Join(context.Cause(ctx), f.Close())
		}
	}
}

func holder(f *os.File) string {
	b, _ := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if pid := strings.TrimSpace(string(b)); pid != "" {
		return " (pid " + pid + ")"
	}
	return ""
}
