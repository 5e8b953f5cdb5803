package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// One statement, one snapshot: the members are those of that version. uuid sorts
// by its bytes, as chat.ID.Compare does, and participants_key gives that order.
const getRosterSQL = `
SELECT id, members_version, kind, last_seq, ARRAY(SELECT user_id FROM participants WHERE conversation_id = c.id ORDER BY user_id)
FROM conversations c WHERE id = @id`

// GetRoster implements chat.Store.
func (s *Store) GetRoster(ctx context.Context, conversation chat.ID) (*chat.Roster, error) {
	const op = "store.GetRoster"
	r, err := collectOne(ctx, s.pool, func(row pgx.CollectableRow) (r chat.Roster, err error) {
		err = row.Scan(&r.ConversationID, &r.Version, &r.Kind, &r.LastSeq, &r.Members)
		return r, err
	}, getRosterSQL, pgx.NamedArgs{"id": conversation})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, noConversation(op, conversation)
	} else if err != nil {
		return nil, translate(op, err)
	}
	return &r, nil
}
