package pgchild

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
)

const (
	logFile  = "postgres.log"
	logLimit = 10 << 20 // bytes
)

// rotateLog moves the log's content to postgres.log.1 when it is larger than limit. The server keeps
// writing to the same file, always at its end, so it need not know; lines written between the copy and
// the cut are lost.
func rotateLog(root *os.Root, limit int64) error {
	fi, err := root.Stat(logFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || fi.Size() <= limit {
		return err
	}
	src, err := root.OpenFile(logFile, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := root.Remove(logFile + ".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := root.OpenFile(logFile+".1", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close(), src.Truncate(0))
}

// openLog opens the log for a server to append to, and tells its present length.
func openLog(root *os.Root) (*os.File, int64, error) {
	f, err := root.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, fi.Size(), nil
}

// logSince returns what was logged after offset, at most the last 2000 bytes. For messages only: "" if it
// cannot be read.
func logSince(root *os.Root, offset int64) string {
	f, err := root.Open(logFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	offset = max(offset, fi.Size()-2000)
	b, _ := io.ReadAll(io.NewSectionReader(f, offset, 2000))
	return strings.TrimSpace(string(b))
}
