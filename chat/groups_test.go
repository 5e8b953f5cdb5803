package chat_test

import (
	"context"

	"github.com/parleymq/parley/chat"
)

func (s *fakeStore) AwaitRoster(ctx context.Context, id chat.ID) (*chat.Roster, error) {
	return s.GetRoster(ctx, id)
}
