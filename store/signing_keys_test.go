package store_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/store/storetest"
)

func TestSigningKeys(t *testing.T) {
	t.Parallel()
	s := storetest.New(t)
	key := func(i int) identity.SigningKey {
		return identity.SigningKey{KID: fmt.Sprint("key", i), Seed: bytes.Repeat([]byte{byte(i)}, 32), CreatedAt: now.Add(time.Duration(i) * time.Hour)}
	}
	// Of several nodes that start at once, one makes the key.
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.CreateSigningKey(t.Context(), key(1), true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := s.CreateSigningKey(t.Context(), key(2), true); err != nil { // there is one
		t.Error(err)
	}
	list := func(want ...identity.SigningKey) {
		t.Helper()
		got, err := s.ListSigningKeys(t.Context())
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("ListSigningKeys: %v, (-want +got):\n%s", err, diff)
		}
	}
	list(key(1))
	for i := 2; i <= 3; i++ {
		if err := s.CreateSigningKey(t.Context(), key(i), false); err != nil {
			t.Error(err)
		}
	}
	first, second := key(1), key(2)
	first.RetiredAt, second.RetiredAt = second.CreatedAt, key(3).CreatedAt
	list(key(3), second, first)

	wantError(t, s.CreateSigningKey(t.Context(), key(3), false), chat.Conflict, "")
	list(key(3), second, first) // and key 3 still signs

	if err := s.DeleteSigningKeys(t.Context(), first.RetiredAt.Add(time.Second)); err != nil {
		t.Error(err)
	}
	list(key(3), second)
	short := key(4)
	short.Seed = short.Seed[:31]
	wantError(t, s.CreateSigningKey(t.Context(), short, false), chat.Invalid, "")
}
