package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgtype/zeronull"

	"github.com/parleymq/parley/chat"
)

// registerTypes registers our types with a new connection: chat.ID as uuid and []chat.ID as
// uuid[], both without reflection, and timestamptz in UTC.
func registerTypes(_ context.Context, conn *pgx.Conn) error {
	m := conn.TypeMap()
	id := &pgtype.Type{Name: "uuid", OID: pgtype.UUIDOID, Codec: idCodec{}}
	m.RegisterType(id)
	m.RegisterType(&pgtype.Type{Name: "_uuid", OID: pgtype.UUIDArrayOID, Codec: &idsCodec{pgtype.ArrayCodec{ElementType: id}}})
	m.RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC}})
	// Query modes that do not ask the server for parameter types (exec and simple protocol,
	// needed behind some poolers) choose by the Go type.
	m.RegisterDefaultPgType(chat.ID{}, "uuid")
	m.RegisterDefaultPgType([]chat.ID{}, "_uuid")
	return nil
}

// idCodec is pgx's codec for uuid, extended by chat.ID, whose zero value is NULL.
type idCodec struct{ pgtype.UUIDCodec }

// encodeFunc and scanFunc are plans of one function.
type (
	encodeFunc func(value any, buf []byte) ([]byte, error)
	scanFunc   func(src []byte, dst any) error
)

// Encode implements pgtype.EncodePlan.
func (f encodeFunc) Encode(value any, buf []byte) ([]byte, error) { return f(value, buf) }

// Scan implements pgtype.ScanPlan.
func (f scanFunc) Scan(src []byte, dst any) error { return f(src, dst) }

// PlanEncode implements pgtype.Codec.
func (c idCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(chat.ID); !ok {
		return c.UUIDCodec.PlanEncode(m, oid, format, value)
	}
	return encodeFunc(func(value any, buf []byte) ([]byte, error) {
		id := value.(chat.ID)
		switch {
		case id.IsZero():
			return nil, nil
		case format == pgtype.BinaryFormatCode:
			return append(buf, id[:]...), nil
		}
		return id.AppendText(buf)
	})
}

// PlanScan implements pgtype.Codec.
func (c idCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*chat.ID); !ok {
		return c.UUIDCodec.PlanScan(m, oid, format, target)
	}
	return scanFunc(func(src []byte, dst any) error {
		id := dst.(*chat.ID)
		switch {
		case src == nil:
			*id = chat.ID{}
			return nil
		case format != pgtype.BinaryFormatCode:
			return id.UnmarshalText(src)
		case len(src) != len(id):
			return fmt.Errorf("uuid of %d bytes", len(src))
		}
		*id = chat.ID(src)
		return nil
	})
}

// idsCodec is pgx's codec for uuid[], which encodes []chat.ID in binary format without an
// allocation for each, and scans it without reflection.
type idsCodec struct{ pgtype.ArrayCodec }

// PlanEncode implements pgtype.Codec.
func (c *idsCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.([]chat.ID); !ok || format != pgtype.BinaryFormatCode {
		return c.ArrayCodec.PlanEncode(m, oid, format, value)
	}
	return encodeFunc(func(value any, buf []byte) ([]byte, error) {
		ids := value.([]chat.ID) // not nil: pgx makes that NULL itself
		buf = appendArrayHeader(buf, pgtype.UUIDOID, len(ids))
		for i := range ids {
			if ids[i].IsZero() {
				buf = appendLength(buf, -1)
				continue
			}
			buf = append(appendLength(buf, len(ids[i])), ids[i][:]...)
		}
		return buf, nil
	})
}

// PlanScan implements pgtype.Codec.
func (c *idsCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	ids, ok := target.(*[]chat.ID)
	if !ok {
		return c.ArrayCodec.PlanScan(m, oid, format, target)
	}
	plan := c.ArrayCodec.PlanScan(m, oid, format, (*pgtype.FlatArray[chat.ID])(ids))
	return scanFunc(func(src []byte, dst any) error {
		return plan.Scan(src, (*pgtype.FlatArray[chat.ID])(dst.(*[]chat.ID)))
	})
}

// appendArrayHeader begins the binary form of an array of n elements (array_recv in
// PostgreSQL's arrayfuncs.c): dimensions, whether it has NULLs, the type of its elements,
// their number, the lower bound. Each element follows its length.
func appendArrayHeader(b []byte, elem uint32, n int) []byte {
	for _, v := range [5]uint32{1, 1, elem, uint32(n), 1} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// appendLength appends the length of an element; -1: it is NULL, and nothing follows.
func appendLength(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }

// nullTime is a time as a parameter or column value; the zero time is NULL.
type nullTime = zeronull.Timestamptz

func scanTime(t *time.Time) *nullTime { return (*nullTime)(t) }
