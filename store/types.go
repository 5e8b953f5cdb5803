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

// PlanEncode implements pgtype.Codec.
func (c idCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(chat.ID); !ok {
		return c.UUIDCodec.PlanEncode(m, oid, format, value)
	}
	if format == pgtype.BinaryFormatCode {
		return encodeIDBinary{}
	}
	return encodeIDText{}
}

type encodeIDBinary struct{}

func (encodeIDBinary) Encode(value any, buf []byte) ([]byte, error) {
	id := value.(chat.ID)
	if id.IsZero() {
		return nil, nil
	}
	return append(buf, id[:]...), nil
}

type encodeIDText struct{}

func (encodeIDText) Encode(value any, buf []byte) ([]byte, error) {
	id := value.(chat.ID)
	if id.IsZero() {
		return nil, nil
	}
	return id.AppendText(buf)
}

// PlanScan implements pgtype.Codec.
func (c idCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*chat.ID); !ok {
		return c.UUIDCodec.PlanScan(m, oid, format, target)
	}
	if format == pgtype.BinaryFormatCode {
		return scanIDBinary{}
	}
	return scanIDText{}
}

type scanIDBinary struct{}

func (scanIDBinary) Scan(src []byte, dst any) error { return readID(src, dst.(*chat.ID)) }

func readID(src []byte, id *chat.ID) error {
	switch len(src) {
	case 0:
		*id = chat.ID{}
		return nil
	case len(id):
		*id = chat.ID(src)
		return nil
	}
	return fmt.Errorf("uuid of %d bytes", len(src))
}

type scanIDText struct{}

func (scanIDText) Scan(src []byte, dst any) error {
	if src == nil {
		*dst.(*chat.ID) = chat.ID{}
		return nil
	}
	return dst.(*chat.ID).UnmarshalText(src)
}

// idsCodec is pgx's codec for uuid[], with a fast path for []chat.ID in binary format.
type idsCodec struct{ pgtype.ArrayCodec }

// PlanEncode implements pgtype.Codec.
func (c *idsCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.([]chat.ID); ok && format == pgtype.BinaryFormatCode {
		return encodeIDsBinary{}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

// The binary form of an array of one dimension: dimensions, whether it has NULLs,
// the type of its elements, their number, the lower bound; then each element
// with its length, or -1 for NULL (array_send in PostgreSQL's arrayfuncs.c).
const arrayHeader = 5 * 4

type encodeIDsBinary struct{}

func (encodeIDsBinary) Encode(value any, buf []byte) ([]byte, error) {
	ids := value.([]chat.ID) // not nil: pgx makes that NULL itself
	for _, v := range []uint32{1, 1, pgtype.UUIDOID, uint32(len(ids)), 1} {
		buf = binary.BigEndian.AppendUint32(buf, v)
	}
	for i := range ids {
		if ids[i].IsZero() {
			buf = binary.BigEndian.AppendUint32(buf, 0xffffffff)
			continue
		}
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(ids[i])))
		buf = append(buf, ids[i][:]...)
	}
	return buf, nil
}

// PlanScan implements pgtype.Codec.
func (c *idsCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if _, ok := target.(*[]chat.ID); ok && format == pgtype.BinaryFormatCode {
		return scanIDsBinary{}
	}
	return c.ArrayCodec.PlanScan(m, oid, format, target)
}

type scanIDsBinary struct{}

func (scanIDsBinary) Scan(src []byte, dst any) error {
	out := dst.(*[]chat.ID)
	*out = nil
	if src == nil || len(src) >= 4 && binary.BigEndian.Uint32(src) == 0 { // NULL, or no dimension: empty
		return nil
	}
	if len(src) < arrayHeader || binary.BigEndian.Uint32(src) != 1 {
		return fmt.Errorf("not an array of one dimension")
	}
	n := int(binary.BigEndian.Uint32(src[12:]))
	src = src[arrayHeader:]
	if n > len(src)/4 { // each element has a length
		return fmt.Errorf("array of %d elements in %d bytes", n, len(src))
	}
	ids := make([]chat.ID, n)
	for i := range ids {
		if len(src) < 4 {
			return fmt.Errorf("array is cut off")
		}
		length := int(int32(binary.BigEndian.Uint32(src)))
		src = src[4:]
		if length < 0 {
			continue
		}
		if length > len(src) {
			return fmt.Errorf("array is cut off")
		}
		if err := readID(src[:length], &ids[i]); err != nil {
			return err
		}
		src = src[length:]
	}
	*out = ids
	return nil
}

// nullTime is a time as a parameter or column value; the zero time is NULL.
type nullTime = zeronull.Timestamptz

func scanTime(t *time.Time) *nullTime { return (*nullTime)(t) }
