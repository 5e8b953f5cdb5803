package store_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
)

// The queues were bounded by events alone: 4 shards of 4096 messages of 64 KiB are
// 1 GiB, which gathers within seconds while the database is slow.
func TestWriterQueueIsFullOfBytes(t *testing.T) {
	t.Parallel()
	r := newWriterRig(t, store.WriterOptions{Shards: 1, QueueBytes: 100})
	release := r.hold()
	a, b := r.message(r.members[0], chat.ID{}, strings.Repeat("a", 60)), r.message(r.members[0], chat.ID{}, strings.Repeat("b", 40))
	r.append(a, b)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	d := r.message(r.members[0], chat.ID{}, "d")
	wantCode(t, r.w.Append(ctx, &d.Append), chat.Unavailable)
	taken := make(chan error, 1)
	e := r.message(r.members[0], chat.ID{}, strings.Repeat("e", 200)) // larger than the limit: fits when nothing else waits
	go func() { taken <- r.w.Append(t.Context(), &e.Append) }()
	release()
	if err := <-taken; err != nil {
		t.Error(err)
	}
	r.stored(a, b, e)
	f := r.message(r.members[0], chat.ID{}, strings.Repeat("f", 100)) // all of it was given back
	r.append(f)
	r.stored(f)
	r.finish()
	if d.told.Load() != 0 {
		t.Error("an event that was not taken was told an outcome")
	}
}
