package chat

import (
	"time"
)

// ValidateNew is validateNew.
var ValidateNew = validateNew

// TypingKept counts what is kept about typing.
func TypingKept(s *Service) (typists, devices int) {
	for i := range typingShards {
		sh, d := &s.typing.shards[i], &s.typing.devices[i]
		sh.mu.Lock()
		for _, users := range sh.typists {
			typists += len(users)
		}
		sh.mu.Unlock()
		d.mu.Lock()
		devices += len(d.conversations)
		d.mu.Unlock()
	}
	return typists, devices
}

// ParseEmoji is parseEmoji.
func ParseEmoji(s string) (string, bool) { return parseEmoji(s) }

// MentionCandidates is mentionCandidates.
func MentionCandidates(text string) [][]string { return mentionCandidates(text) }

// StandStill makes a fence believe that the process has stood still for so long.
func StandStill(f *Fence, d time.Duration) { f.tick.Add(-int64(d)) }

// NewWills is newWills.
func NewWills() *Wills { return newWills() }

// Held returns of how many devices wills are held, and how many bytes are accounted for.
func (ws *Wills) Held() (devices, bytes int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.held), ws.bytes
}

var (
	TypingPayload = typingPayload
	ReadPayload   = readPayload
)
