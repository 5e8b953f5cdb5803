package store

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
)

var _ chat.RetainedStore = (*Store)(nil)

// The one space of all is the zero id, which a parameter of ours takes for NULL.
const (
	inSpace     = `space = coalesce(@space::uuid, ` + leastID + `)`
	namedTopics = `(space, topic) IN (SELECT coalesce(n.space, ` + leastID + `), n.topic FROM unnest(@spaces::uuid[], @topics::text[]) AS n (space, topic))`
)

// lockRetainedSQL lets one transaction after the other change retained messages: each
// node has one at a time, with all that has gathered for it, and two with the same topics,
// some of them new, would wait for each other in a circle.
const lockRetainedSQL = `SELECT pg_advisory_xact_lock(hashtextextended('parley retained messages', 0))`

// knownRetainedSQL says which of the topics have a retained message.
const knownRetainedSQL = `
SELECT space, topic FROM retained_messages WHERE ` + namedTopics

// countRetainedSQL counts what a user has, as far as that matters.
const countRetainedSQL = `
SELECT u.id, (SELECT count(*) FROM (SELECT FROM retained_messages r WHERE r.user_id = u.id LIMIT @limit) AS theirs)
FROM unnest(@users::uuid[]) AS u (id)`

const putRetainedSQL = `
INSERT INTO retained_messages (space, topic, user_id, origin, qos, properties, payload, stored_at, expires_at)
SELECT coalesce(space, ` + leastID + `), topic, user_id, origin, qos, properties, payload, @now::timestamptz, expires_at
FROM unnest(@spaces::uuid[], @topics::text[], @users::uuid[], @origins::int8[], @qos::int2[], @properties::bytea[], @payloads::bytea[], @expires::timestamptz[])
  AS n (space, topic, user_id, origin, qos, properties, payload, expires_at)
ON CONFLICT ON CONSTRAINT retained_messages_key DO UPDATE SET
  user_id = excluded.user_id, origin = excluded.origin, qos = excluded.qos, properties = excluded.properties,
  payload = excluded.payload, stored_at = excluded.stored_at, expires_at = excluded.expires_at`

const deleteRetainedSQL = `
DELETE FROM retained_messages WHERE ` + namedTopics

// PutRetained implements chat.RetainedStore.
func (s *Store) PutRetained(ctx context.Context, changes []chat.RetainedChange, full bool, now time.Time) (refused []error, err error) {
	refused = make([]error, len(changes))
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, lockRetainedSQL); err != nil {
			return err
		}
		if err := s.refuseSuperseded(ctx, tx, changes, refused); err != nil {
			return err
		}
		if err := refuseRetained(ctx, tx, changes, full, refused); err != nil {
			return err
		}
		last := map[retainedKey]int{} // of several to one topic
		for i, c := range changes {
			if refused[i] == nil && !c.CheckOnly {
				last[retainedKey{c.Space, c.Topic}] = i
			}
		}
		var put, removed retainedColumns
		for i, c := range changes {
			switch at, ok := last[retainedKey{c.Space, c.Topic}]; {
			case !ok || at != i:
			case len(c.Payload) == 0:
				removed.add(c)
			default:
				put.add(c)
			}
		}
		if len(removed.topics) > 0 {
			if _, err := tx.Exec(ctx, deleteRetainedSQL, pgx.NamedArgs{"spaces": removed.spaces, "topics": removed.topics}); err != nil {
				return err
			}
		}
		if len(put.topics) == 0 {
			return nil
		}
		_, err := tx.Exec(ctx, putRetainedSQL, pgx.NamedArgs{
			"spaces": put.spaces, "topics": put.topics, "users": put.users, "origins": put.origins, "qos": put.qos,
			"properties": put.properties, "payloads": put.payloads, "expires": put.expires, "now": now,
		})
		return err
	})
	return refused, translate("store.PutRetained", err)
}

// retainedColumns are rows of retained_messages, column by column.
type retainedColumns struct {
	spaces, users        []chat.ID
	topics               []string
	origins              []int64
	qos                  []int16
	properties, payloads [][]byte
	expires              []*time.Time
}

func (r *retainedColumns) add(c chat.RetainedChange) {
	r.spaces, r.topics, r.users = append(r.spaces, c.Space), append(r.topics, c.Topic), append(r.users, c.UserID)
	r.origins, r.qos = append(r.origins, int64(c.Origin)), append(r.qos, int16(c.QoS))
	properties := c.Properties
	if properties == nil {
		properties = []byte{}
	}
	r.properties, r.payloads = append(r.properties, properties), append(r.payloads, c.Payload)
	var expires *time.Time
	if !c.Expires.IsZero() {
		expires = &c.Expires
	}
	r.expires = append(r.expires, expires)
}

type retainedKey struct {
	space chat.ID
	topic string
}

// The snapshot of this statement is from after lockRetainedSQL: what the device does on its
// newer connection is stored after this transaction, or its epoch is seen here.
const supersededSQL = `
SELECT f.rank - 1 FROM unnest(@users::uuid[], @clients::text[], @epochs::int8[]) WITH ORDINALITY AS f (user_id, client_id, epoch, rank)
JOIN sessions s ON s.user_id = f.user_id AND s.client_id = f.client_id AND s.epoch > f.epoch AND f.epoch > 0`

// refuseSuperseded finds those changes that came over a connection which a newer one of the
// same device has superseded. A lone node need not ask: it orders them itself.
func (s *Store) refuseSuperseded(ctx context.Context, tx pgx.Tx, changes []chat.RetainedChange, refused []error) error {
	if s.OutboxNode() == "" {
		return nil
	}
	users, clients, epochs := make([]chat.ID, len(changes)), make([]string, len(changes)), make([]int64, len(changes))
	for i, c := range changes {
		users[i], clients[i], epochs[i] = c.UserID, c.ClientID, c.Epoch
	}
	found, err := collect(ctx, tx, pgx.RowTo[int64], supersededSQL, pgx.NamedArgs{"users": users, "clients": clients, "epochs": epochs})
	for _, i := range found {
		refused[i] = &chat.Error{Code: chat.Unavailable, Op: "store.PutRetained", Msg: "the device has connected again; this connection is over"}
	}
	return err
}

// refuseRetained finds those changes that would make a new message of a user who has
// as many as they may.
func refuseRetained(ctx context.Context, tx pgx.Tx, changes []chat.RetainedChange, full bool, refused []error) error {
	var all retainedColumns
	for _, c := range changes {
		all.add(c)
	}
	known := map[retainedKey]bool{}
	found, err := collect(ctx, tx,
		fields(func(k *retainedKey) []any { return []any{&k.space, &k.topic} }),
		knownRetainedSQL, pgx.NamedArgs{"spaces": all.spaces, "topics": all.topics},
	)
	if err != nil {
		return err
	}
	for _, k := range found {
		known[k] = true
	}
	room := map[chat.ID]int{}
	var users []chat.ID
	for i, c := range changes {
		if _, ok := room[c.UserID]; !ok && refused[i] == nil && !c.CheckOnly && len(c.Payload) > 0 && !known[retainedKey{c.Space, c.Topic}] {
			room[c.UserID] = 0
			users = append(users, c.UserID)
		}
	}
	if len(users) == 0 {
		return nil
	}
	type count struct {
		user chat.ID
		n    int
	}
	counts, err := collect(ctx, tx,
		fields(func(c *count) []any { return []any{&c.user, &c.n} }),
		countRetainedSQL, pgx.NamedArgs{"users": users, "limit": chat.MaxRetainedByUser},
	)
	if err != nil {
		return err
	}
	for _, c := range counts {
		room[c.user] = chat.MaxRetainedByUser - c.n
	}
	for i, c := range changes {
		key := retainedKey{c.Space, c.Topic}
		if refused[i] != nil || c.CheckOnly || len(c.Payload) == 0 || known[key] {
			continue
		}
		if room[c.UserID]--; full {
			refused[i] = &chat.Error{Code: chat.Quota, Field: "topic", Msg: "the server keeps as many retained messages as it may"}
		} else if room[c.UserID] < 0 {
			refused[i] = &chat.Error{Code: chat.Quota, Field: "topic", Msg: "you have " + strconv.Itoa(chat.MaxRetainedByUser) + " retained messages, which is the limit; remove some"}
		} else {
			known[key] = true // by the others to this topic
		}
	}
	return nil
}

const listRetainedSQL = `
SELECT topic FROM retained_messages WHERE ` + inSpace + ` AND topic > @after ORDER BY topic LIMIT @limit`

// The byte after a slash is 0: what is below a level is a range.
const listRetainedBelowSQL = `
SELECT topic FROM retained_messages WHERE ` + inSpace + ` AND topic > @after AND topic >= @below AND topic < @until ORDER BY topic LIMIT @limit`

// ListRetainedTopics implements chat.RetainedStore.
func (s *Store) ListRetainedTopics(ctx context.Context, space chat.ID, below, after string, limit int) ([]string, error) {
	args := pgx.NamedArgs{"space": space, "after": after, "limit": limit}
	query := listRetainedSQL
	if below != "" {
		query, args["below"], args["until"] = listRetainedBelowSQL, below+"/", below+"0"
	}
	topics, err := collect(ctx, s.pool, pgx.RowTo[string], query, args)
	return topics, translate("store.ListRetainedTopics", err)
}

const getRetainedSQL = `
SELECT topic, origin, qos, properties, payload, expires_at FROM retained_messages
WHERE ` + inSpace + ` AND topic = ANY(@topics) AND (expires_at IS NULL OR expires_at > @now)`

// GetRetained implements chat.RetainedStore.
func (s *Store) GetRetained(ctx context.Context, space chat.ID, topics []string, now time.Time) ([]*chat.Publication, error) {
	found, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (*chat.Publication, error) {
		p := &chat.Publication{Space: space, Retain: true}
		var origin int64
		var qos int16
		var expires *time.Time
		err := row.Scan(&p.Topic, &origin, &qos, &p.Properties, &p.Payload, &expires)
		p.Origin, p.QoS = uint64(origin), byte(qos)
		if expires != nil {
			p.Expires = *expires
		}
		return p, err
	}, getRetainedSQL, pgx.NamedArgs{"space": space, "topics": topics, "now": now})
	return found, translate("store.GetRetained", err)
}

const countAllRetainedSQL = `SELECT count(*) FROM retained_messages`

// CountRetained implements chat.RetainedStore.
func (s *Store) CountRetained(ctx context.Context) (n int64, err error) {
	err = s.pool.QueryRow(ctx, countAllRetainedSQL).Scan(&n)
	return n, translate("store.CountRetained", err)
}

const deleteExpiredRetainedSQL = `
DELETE FROM retained_messages WHERE (space, topic) IN (
  SELECT space, topic FROM retained_messages WHERE expires_at <= @now LIMIT @limit FOR UPDATE SKIP LOCKED
)`

// DeleteExpiredRetained implements chat.RetainedStore.
func (s *Store) DeleteExpiredRetained(ctx context.Context, now time.Time, limit int) (int64, error) {
	tag, err := s.pool.Exec(ctx, deleteExpiredRetainedSQL, pgx.NamedArgs{"now": now, "limit": limit})
	return tag.RowsAffected(), translate("store.DeleteExpiredRetained", err)
}
