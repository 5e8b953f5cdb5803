package store_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/store"
	"github.com/parleymq/parley/store/storetest"
)

// Some poolers need the modes that prepare nothing; ids and times pass in all of them.
func TestTypesInEveryMode(t *testing.T) {
	t.Parallel()
	dsn := storetest.EmptyDSN(t)
	modes := []pgx.QueryExecMode{
		pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
	}
	a, b := chat.NewID(), chat.NewID()
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			conn, err := pgx.Connect(t.Context(), dsn)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			if err := store.RegisterTypes(t.Context(), conn); err != nil {
				t.Fatal(err)
			}
			for _, ids := range [][]chat.ID{{a, b}, {a, {}, b}, {}, nil} {
				var one, none chat.ID
				var text string
				var isNull, arrayIsNull bool
				var back []chat.ID
				var at time.Time
				err := conn.QueryRow(t.Context(), `SELECT $1::uuid, $1::uuid::text, $2::uuid, $2::uuid IS NULL, $3::uuid[], $3::uuid[] IS NULL, $4::timestamptz`,
					mode, a, chat.ID{}, ids, now).Scan(&one, &text, &none, &isNull, &back, &arrayIsNull, &at)
				if err != nil {
					t.Fatal(err)
				}
				if one != a || text != a.String() {
					t.Errorf("%v came back as %v, and is %s in text", a, one, text)
				}
				if !none.IsZero() || !isNull {
					t.Errorf("the zero id came back as %v, NULL %v", none, isNull)
				}
				if arrayIsNull != (ids == nil) || len(back) != len(ids) || len(ids) > 0 && !cmp.Equal(ids, back) {
					t.Errorf("%v came back as %v, NULL %v", ids, back, arrayIsNull)
				}
				if at.Location() != time.UTC || !at.Equal(now) {
					t.Errorf("%v came back as %v", now, at)
				}
			}
		})
	}
}
