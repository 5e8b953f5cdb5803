package bench

import (
	"context"
	"io"
	"net"
	"os"
	"time"
)

// SyncLimit measures how long the disk takes to make 8 KiB durable, in the middle of a file of 16 MiB: what a commit
// waits for. The file is in dir, and is removed.
func SyncLimit(ctx context.Context, dir string, d time.Duration) (res *RepeatResult, err error) {
	f, err := os.CreateTemp(dir, "parley-bench-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 8<<10)
	const pages = 2048
	if _, err := f.Write(make([]byte, pages*len(page))); err != nil {
		return nil, err
	}
	return Repeat(ctx, RepeatOptions{Workers: 1, Duration: d, Warmup: d / 10, Do: func(_ context.Context, _, n int) error {
		if _, err := f.WriteAt(page, int64(n%pages*len(page))); err != nil {
			return err
		}
		return f.Sync()
	}})
}

// LoopbackLimit measures how long size bytes take through a TCP connection on this machine, and back.
func LoopbackLimit(ctx context.Context, size int, d time.Duration) (*RepeatResult, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() { // ends with the connection, which is closed below
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b := make([]byte, size)
	return Repeat(ctx, RepeatOptions{Workers: 1, Duration: d, Warmup: d / 10, Do: func(context.Context, int, int) error {
		if _, err := c.Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(c, b)
		return err
	}})
}
