package campaign

import (
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

func newMangler() *mangler {
	return &mangler{ports: map[string]string{"20001": "40001"}, random: rand.New(rand.NewPCG(1, 1))}
}

func frame(text string) string {
	return "*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$" + string(rune('0'+len(text))) + "\r\n" + text + "\r\n"
}

func TestMangler(t *testing.T) {
	slots := "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:20001\r\n$2\r\nid\r\n"
	moved := "-MOVED 7 127.0.0.1:20001\r\n"
	for name, c := range map[string]struct {
		set  func(*mangler)
		in   string
		want string
	}{
		"replies pass":       {func(*mangler) {}, "+OK\r\n$-1\r\n*-1\r\n*0\r\n:7\r\n" + frame("one"), "+OK\r\n$-1\r\n*-1\r\n*0\r\n:7\r\n" + frame("one")},
		"ports are the line": {func(*mangler) {}, slots + moved, strings.ReplaceAll(slots+moved, "20001", "40001")},
		"not in messages":    {func(*mangler) {}, frame(":20001\r\n"), frame(":20001\r\n")},
		"lost":               {func(m *mangler) { m.set(1, 0, 0) }, "+OK\r\n" + frame("one") + "+OK\r\n", "+OK\r\n+OK\r\n"},
		"doubled":            {func(m *mangler) { m.set(0, 1, 0) }, frame("one"), frame("one") + frame("one")},
		"swapped":            {func(m *mangler) { m.set(0, 0, 1) }, frame("one") + frame("two") + ":1\r\n", frame("two") + frame("one") + ":1\r\n"},
	} {
		m := newMangler()
		c.set(m)
		got, err := io.ReadAll(m.reader(iotest.OneByteReader(strings.NewReader(c.in))))
		if string(got) != c.want || err != nil {
			t.Errorf("%s: %q becomes %q, %v, want %q", name, c.in, got, err, c.want)
		}
	}
}

func FuzzReplies(f *testing.F) {
	f.Add([]byte("*2\r\n$1\r\na\r\n-ERR\r\n"))
	f.Add([]byte(frame("one") + frame("two")))
	f.Add([]byte("$8388608\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := newMangler()
		m.ports = nil
		got, err := io.ReadAll(m.reader(bytes.NewReader(b)))
		if !bytes.HasPrefix(b, got) {
			t.Errorf("%q becomes %q, %v", b, got, err)
		}
	})
}
