package chat

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"unicode/utf16"
)

// byteOrderMark may stand before JSON, and is not part of it (RFC 8259, 8.1).
var byteOrderMark = []byte("\xef\xbb\xbf")

// TrimByteOrderMark returns data without a byte order mark at its beginning.
func TrimByteOrderMark(data []byte) []byte { return bytes.TrimPrefix(data, byteOrderMark) }

// decodeJSON decodes the payload of a publish, an object, into v, a pointer to a struct.
// What CheckJSON refuses is Invalid, and so is a name that differs from a field's in case
// only: encoding/json takes it for the field, and other parsers do not. The other errors are
// those of json.Unmarshal.
func decodeJSON(payload []byte, v any) error {
	payload = TrimByteOrderMark(payload)
	if err := json.Unmarshal(payload, v); err != nil {
		return err
	}
	if err := checkJSON(payload, fieldNames(reflect.TypeOf(v).Elem())); err != nil {
		return invalid("payload", err.Error())
	}
	return nil
}

// fieldsOf has the names of the fields of each struct that decodeJSON has filled.
var fieldsOf sync.Map // reflect.Type to [][]byte

// fieldNames returns the names of a struct's fields in JSON.
func fieldNames(t reflect.Type) [][]byte {
	if names, ok := fieldsOf.Load(t); ok {
		return names.([][]byte)
	}
	var names [][]byte
	for i := range t.NumField() {
		names = append(names, []byte(t.Field(i).Tag.Get("json")))
	}
	fieldsOf.Store(t, names)
	return names
}

// CheckJSON refuses what encoding/json takes and changes in silence (RFC 7493, 2.1 and 2.3):
// an object with two members of one name, of which it keeps the last, and an escaped
// surrogate without its other half, which it replaces by U+FFFD. data must be valid JSON in
// valid UTF-8. It does not allocate for objects of up to 16 members.
func CheckJSON(data []byte) error { return checkJSON(data, nil) }

// checkJSON is CheckJSON, which also refuses a name in the outermost object that differs
// from one of fields in case only.
func checkJSON(data []byte, fields [][]byte) error {
	var (
		openBuf  [8]jsonValue
		namesBuf [16][]byte
		open     = openBuf[:0]
		names    = namesBuf[:0] // of all objects that are open
		isName   bool           // the next string is the name of a member
	)
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			isName = data[i] == '{'
			open = append(open, jsonValue{object: isName, names: len(names)})
		case '}', ']':
			names = names[:open[len(open)-1].names]
			open = open[:len(open)-1]
		case ',':
			isName = open[len(open)-1].object
		case '"':
			text, err := jsonString(data[i:])
			if err != nil {
				return err
			}
			i += len(text) - 1
			if !isName {
				continue
			}
			isName = false
			name := unescaped(text)
			top := &open[len(open)-1]
			if top.has(names, name) {
				return fmt.Errorf("names %.50q twice in one object", name)
			}
			if len(open) == 1 {
				for _, f := range fields {
					if bytes.EqualFold(name, f) && !bytes.Equal(name, f) {
						return fmt.Errorf("names %.50q, which is written %q", name, f)
					}
				}
			}
			names = append(names, name)
		}
	}
	return nil
}

// jsonValue is an object or an array whose end has not been read.
type jsonValue struct {
	object bool
	names  int             // names[names:] are those of its members
	seen   map[string]bool // the same, once there are many
}

// has reports whether the value has a member of the name already.
func (v *jsonValue) has(names [][]byte, name []byte) bool {
	names = names[v.names:]
	if len(names) < 16 {
		for _, n := range names {
			if bytes.Equal(n, name) {
				return true
			}
		}
		return false
	}
	if v.seen == nil {
		v.seen = map[string]bool{}
		for _, n := range names {
			v.seen[string(n)] = true
		}
	}
	seen := v.seen[string(name)]
	v.seen[string(name)] = true
	return seen
}

// jsonString returns the string that data begins with, quotes included.
func jsonString(data []byte) ([]byte, error) {
	for i := 1; ; i++ {
		switch {
		case data[i] == '"':
			return data[:i+1], nil
		case data[i] == '\\' && data[i+1] == 'u':
			if r := codeUnit(data[i:]); utf16.IsSurrogate(r) {
				if utf16.DecodeRune(r, codeUnit(data[i+6:])) == '\uFFFD' {
					return nil, fmt.Errorf("has the escape %s, a surrogate without its other half", data[i:i+6])
				}
				i += 6
			}
			i += 5
		case data[i] == '\\':
			i++
		}
	}
}

// codeUnit returns the UTF-16 code unit of the escape \uXXXX that data begins with; 0 if
// it begins with something else.
func codeUnit(data []byte) rune {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0
	}
	var b [2]byte
	_, _ = hex.Decode(b[:], data[2:6]) // the JSON is valid
	return rune(b[0])<<8 | rune(b[1])
}

// unescaped returns what a JSON string stands for.
func unescaped(text []byte) []byte {
	if bytes.IndexByte(text, '\\') < 0 {
		return text[1 : len(text)-1]
	}
	var s string
	_ = json.Unmarshal(text, &s) // the JSON is valid
	return []byte(s)
}
