package chat

import (
	"bytes"
	"fmt"

	"github.com/google/uuid"
)

// ID identifies a user, conversation, message or login: a UUID (RFC 9562) of version 7, so
// that ids sort by time. The zero ID means "none".
type ID [16]byte

// zeroID is the message about a zero ID from a client, which has to leave the field out to
// say "none".
const zeroID = "must not be the zero id"

// NewID returns a new UUIDv7. Ids made by one process ascend. It is safe for concurrent
// use.
func NewID() ID { return ID(uuid.Must(uuid.NewV7())) }

// ParseID parses the 36 characters of a UUID's canonical text, in upper or lower case (RFC
// 9562, 4). Any other form (braces, "urn:uuid:") is Invalid. It does not allocate on success.
func ParseID(s string) (ID, error) {
	var id ID
	if !id.parse(s) {
		return ID{}, &Error{Code: Invalid, Msg: "not an id: want a UUID, such as 0198c0de-0000-7000-8000-000000000000"}
	}
	return id, nil
}

// MustParseID is ParseID for constants in tests and examples; it panics on a bad id.
func MustParseID(s string) ID {
	id, err := ParseID(s)
	if err != nil {
		panic(fmt.Sprintf("chat: %q is not an id", s))
	}
	return id
}

func (id *ID) parse(s string) bool {
	if len(s) != 36 {
		return false
	}
	u, err := uuid.Parse(s)
	*id = ID(u)
	return err == nil
}

const hexDigits = "0123456789abcdef"

// AppendText appends the 36 characters of the id. It never fails.
func (id ID) AppendText(b []byte) ([]byte, error) { return id.append(b), nil }

func (id ID) append(b []byte) []byte {
	for i, c := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			b = append(b, '-')
		}
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	return b
}

// String returns the id in lower-case canonical text.
func (id ID) String() string { return string(id.append(make([]byte, 0, 36))) }

// IsZero reports whether the id means "none".
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders ids by their bytes: for version 7, by the time they were made.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return id.append(make([]byte, 0, 36)), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts what ParseID does.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}
