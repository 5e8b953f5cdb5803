package chat_test

import (
	"context"

	"github.com/parleymq/parley/chat"
)

func (s *fakeStore) ListHidden(_ context.Context, conversation, user chat.ID) ([]chat.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hiddenAsked++
	if s.fail != nil {
		return nil, s.fail
	}
	return s.hidden[user], nil
}
