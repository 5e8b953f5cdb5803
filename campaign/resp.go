package campaign

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
)

// mangler stands between a node and a server of Redis. It knows the replies from each
// other (RESP2), so it can lose, repeat and swap single messages of a subscription, and
// in a Cluster directs the node to its own lines.
type mangler struct {
	ports map[string]string // by the port of a server: that of the node's line to it

	mu                    sync.Mutex
	random                *rand.Rand // mu guards
	lose, repeat, reorder float64    // mu guards: how probably a message is lost, comes twice, comes after the next one
}

// set sets what becomes of messages from now on.
func (m *mangler) set(lose, repeat, reorder float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lose, m.repeat, m.reorder = lose, repeat, reorder
}

func (m *mangler) reader(from io.Reader) io.Reader {
	return &respReader{m: m, r: bufio.NewReaderSize(from, 16<<10)}
}

// respReader reads what the mangler makes of replies.
type respReader struct {
	m    *mangler
	r    *bufio.Reader
	left []byte // read, not handed on
	held []byte // a message that comes after the next one
}

func (r *respReader) Read(b []byte) (int, error) {
	for len(r.left) == 0 {
		reply, err := readReply(nil, r.r, 0)
		if err != nil {
			return 0, err
		}
		r.left = r.mangle(reply)
	}
	n := copy(b, r.left)
	r.left = r.left[n:]
	return n, nil
}

// mangle returns what is handed on of a reply.
func (r *respReader) mangle(reply []byte) []byte {
	m := r.m
	if !isMessage(reply) {
		for from, to := range m.ports {
			reply = bytes.ReplaceAll(reply, []byte(":"+from+"\r\n"), []byte(":"+to+"\r\n")) // CLUSTER SLOTS, MOVED, ASK
		}
		return reply
	}
	m.mu.Lock()
	lose, repeat, reorder := m.random.Float64() < m.lose, m.random.Float64() < m.repeat, m.random.Float64() < m.reorder
	m.mu.Unlock()
	out, held := []byte(nil), r.held
	switch {
	case lose:
	case reorder && held == nil:
		r.held = reply
		return nil
	default:
		out = append(out, reply...)
		if repeat {
			out = append(out, reply...)
		}
	}
	r.held = nil
	return append(out, held...)
}

// isMessage reports whether a reply is a message of a subscription.
func isMessage(reply []byte) bool {
	return bytes.HasPrefix(reply, []byte("*3\r\n$7\r\nmessage\r\n")) || bytes.HasPrefix(reply, []byte("*3\r\n$8\r\nsmessage\r\n"))
}

var errRESP = errors.New("no reply of Redis")

const (
	maxReply = 8 << 20 // bytes; more is not Redis
	maxDepth = 8
)

// readReply appends one reply, as it is (RESP2).
func readReply(b []byte, r *bufio.Reader, depth int) ([]byte, error) {
	line, err := r.ReadSlice('\n') // of at most the reader's 16 KiB
	if err != nil {
		return nil, err
	}
	if len(line) < 3 || line[len(line)-2] != '\r' || depth > maxDepth {
		return nil, errRESP
	}
	b = append(b, line...)
	kind, rest := line[0], string(line[1:len(line)-2])
	switch kind {
	case '+', '-', ':':
		return b, nil
	case '$', '*':
	default:
		return nil, errRESP
	}
	n, err := strconv.Atoi(rest)
	if err != nil || n < -1 || n > maxReply || len(b) > maxReply {
		return nil, errRESP
	}
	if kind == '$' && n >= 0 {
		at := len(b)
		b = append(b, make([]byte, n+2)...)
		_, err := io.ReadFull(r, b[at:])
		return b, err
	}
	for i := 0; kind == '*' && i < n; i++ {
		if b, err = readReply(b, r, depth+1); err != nil {
			return nil, err
		}
	}
	return b, nil
}
