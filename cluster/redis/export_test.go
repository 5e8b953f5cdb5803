package redis

import "fmt"

// Describe parses a URL and returns a description, without connecting.
func Describe(raw string) (string, error) {
	t, err := parseURL(raw)
	if err != nil {
		return "", err
	}
	s := fmt.Sprintf("%s db=%d user=%s password=%s", t, t.db, t.user, t.password)
	if t.sentinelUser+t.sentinelPassword != "" {
		s += fmt.Sprintf(" sentinel=%s:%s", t.sentinelUser, t.sentinelPassword)
	}
	if t.tls != nil {
		s += fmt.Sprintf(" tls name=%s skip=%v ca=%s cert=%s key=%s", t.tls.ServerName, t.tls.InsecureSkipVerify, t.caFile, t.cert, t.keyF)
	}
	return s, nil
}

// Message makes a message of frames.
func Message(sender string, seq uint64, frames ...[]byte) []byte {
	b := appendHead(nil, sender, seq)
	for _, f := range frames {
		b = appendFrame(b, f)
	}
	return b
}

// ReadMessage splits a message; ok is false for one that is ignored.
func ReadMessage(b []byte) (sender string, seq uint64, frames [][]byte, ok bool) {
	m, v := readMessage(b)
	if v != good {
		return "", 0, nil, false
	}
	for f := range m.all() {
		frames = append(frames, f)
	}
	return m.sender, m.seq, frames, true
}

// MaxMessage is the largest message that is read.
const MaxMessage = maxMessage
