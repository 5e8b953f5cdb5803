package store

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

// lockPairSQL serialises creating a direct conversation and blocking within a pair of users:
// each sees what the other has stored.
const lockPairSQL = `SELECT pg_advisory_xact_lock(` + pairLocks + `, hashtext(@low::uuid::text || @high::uuid::text))`

// pairLocks keeps the locks of pairs apart from other advisory locks.
const pairLocks = `1886153076`

func pairArgs(a, b chat.ID) pgx.NamedArgs {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	return pgx.NamedArgs{"low": a, "high": b}
}

const (
	// Blocks by one user are serialised, so that the limit holds.
	lockUserSQL   = `SELECT true FROM users WHERE id = @user_id FOR NO KEY UPDATE`
	userExistsSQL = `SELECT true FROM users WHERE id = @blocked_id`

	addBlockSQL = `
INSERT INTO blocks (user_id, blocked_id, created_at) VALUES (@user_id, @blocked_id, @now)
ON CONFLICT ON CONSTRAINT blocks_key DO NOTHING`

	countBlocksSQL = `SELECT count(*) FROM blocks WHERE user_id = @user_id`

	deleteBlockSQL = `DELETE FROM blocks WHERE user_id = @user_id AND blocked_id = @blocked_id`

	// The version rises although the members stay the same: events that were checked against
	// the previous roster are checked again.
	raiseDirectSQL = `
UPDATE conversations c SET members_version = c.members_version + 1
FROM direct_conversations d WHERE d.low_user_id = @low AND d.high_user_id = @high AND c.id = d.conversation_id
RETURNING c.id`
)

// SetBlock implements chat.BlockStore.
func (s *Store) SetBlock(ctx context.Context, user, other chat.ID, now time.Time) (*chat.BlockChange, error) {
	const op = "store.SetBlock"
	args := pgx.NamedArgs{"user_id": user, "blocked_id": other, "now": now}
	return s.changeBlock(ctx, op, user, other, func(tx pgx.Tx) (bool, error) {
		if _, err := collectOne(ctx, tx, pgx.RowTo[bool], lockUserSQL, args); err != nil {
			return false, err
		}
		if _, err := collectOne(ctx, tx, pgx.RowTo[bool], userExistsSQL, args); errors.Is(err, pgx.ErrNoRows) {
			return false, notFound(op, "userId", "user", other)
		} else if err != nil {
			return false, err
		}
		tag, err := tx.Exec(ctx, addBlockSQL, args)
		if err != nil || tag.RowsAffected() == 0 {
			return false, err
		}
		n, err := collectOne(ctx, tx, pgx.RowTo[int], countBlocksSQL, args)
		if err == nil && n > chat.MaxBlockedUsers {
			err = &chat.Error{Code: chat.Conflict, Op: op, Field: "userId", Msg: "you have blocked " + strconv.Itoa(chat.MaxBlockedUsers) + " users, and that is the limit"}
		}
		return true, err
	})
}

// DeleteBlock implements chat.BlockStore.
func (s *Store) DeleteBlock(ctx context.Context, user, other chat.ID) (*chat.BlockChange, error) {
	return s.changeBlock(ctx, "store.DeleteBlock", user, other, func(tx pgx.Tx) (bool, error) {
		tag, err := tx.Exec(ctx, deleteBlockSQL, pgx.NamedArgs{"user_id": user, "blocked_id": other})
		return tag.RowsAffected() > 0, err
	})
}

func (s *Store) changeBlock(ctx context.Context, op string, user, other chat.ID, f func(pgx.Tx) (bool, error)) (*chat.BlockChange, error) {
	c := &chat.BlockChange{}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		pair := pairArgs(user, other)
		if _, err := tx.Exec(ctx, lockPairSQL, pair); err != nil {
			return err
		}
		var err error
		if c.Changed, err = f(tx); err != nil || !c.Changed {
			return err
		}
		raised, err := collect(ctx, tx, pgx.RowTo[chat.ID], raiseDirectSQL, pair)
		if err != nil || len(raised) == 0 {
			return err
		}
		c.Conversation = raised[0]
		if c.Roster, err = getRoster(ctx, tx, op, c.Conversation); err != nil {
			return err
		}
		return s.writeOutbox(ctx, tx, c.Conversation, c.Roster.LastSeq, c.Roster.Version, true)
	})
	return c, translate(op, err)
}

const listBlocksSQL = `
SELECT b.blocked_id, coalesce(u.username, ''), coalesce(u.display_name, ''), b.created_at
FROM blocks b LEFT JOIN users u ON u.id = b.blocked_id
WHERE b.user_id = @user_id AND b.blocked_id > coalesce(@after::uuid, ` + leastID + `)
ORDER BY b.blocked_id LIMIT @limit`

// ListBlocks implements chat.BlockStore.
func (s *Store) ListBlocks(ctx context.Context, user, after chat.ID, limit int) ([]chat.Block, error) {
	args := pgx.NamedArgs{"user_id": user, "after": after, "limit": max(limit, 1)}
	found, err := collect(ctx, s.pool, fields(func(b *chat.Block) []any {
		return []any{&b.UserID, &b.Username, &b.DisplayName, scanTime(&b.CreatedAt)}
	}), listBlocksSQL, args)
	return found, translate("store.ListBlocks", err)
}

// Usually a user has few blocks, either way, compared with the members of a large group; a
// user blocked by a million others has many. The planner chooses the join order.
const listHiddenSQL = `
SELECT p.user_id FROM participants p JOIN (
  SELECT blocked_id AS id FROM blocks WHERE user_id = @user_id
  UNION
  SELECT user_id FROM blocks WHERE blocked_id = @user_id
) b ON b.id = p.user_id
WHERE p.conversation_id = @id
ORDER BY p.user_id`

// ListHidden implements chat.BlockStore.
func (s *Store) ListHidden(ctx context.Context, conversation, user chat.ID) ([]chat.ID, error) {
	found, err := collect(ctx, s.pool, pgx.RowTo[chat.ID], listHiddenSQL, pgx.NamedArgs{"id": conversation, "user_id": user})
	return found, translate("store.ListHidden", err)
}

const firstBlockedSQL = `
SELECT wanted.id FROM unnest(@ids::uuid[]) WITH ORDINALITY AS wanted (id, place)
WHERE EXISTS (SELECT FROM blocks b WHERE b.user_id = @user_id AND b.blocked_id = wanted.id)
   OR EXISTS (SELECT FROM blocks b WHERE b.user_id = wanted.id AND b.blocked_id = @user_id)
ORDER BY wanted.place LIMIT 1`

// requireReachable refuses the first user in the caller's order who does not exist or is
// disabled; then the first whom the actor has blocked, or who has blocked the actor, with
// one error for both.
func requireReachable(ctx context.Context, tx pgx.Tx, op string, actor chat.ID, users []chat.ID, field string) error {
	args := pgx.NamedArgs{"ids": users, "user_id": actor}
	missing, err := collect(ctx, tx, pgx.RowTo[chat.ID], missingUserSQL, args)
	switch {
	case err != nil:
		return err
	case len(missing) > 0:
		return notFound(op, field, "user", missing[0])
	}
	blocked, err := collect(ctx, tx, pgx.RowTo[chat.ID], firstBlockedSQL, args)
	if err != nil || len(blocked) == 0 {
		return err
	}
	return &chat.Error{Code: chat.Forbidden, Op: op, Field: field, Msg: "you cannot begin anything with user " + blocked[0].String()}
}
