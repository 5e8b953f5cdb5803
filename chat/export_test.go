package chat

import (
	"context"
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
		devices += len(d.of)
		d.mu.Unlock()
	}
	return typists, devices
}

// IsEmoji is isEmoji.
func IsEmoji(s string) bool { return isEmoji(s) }

// MentionCandidates is mentionCandidates.
func MentionCandidates(text string) [][]string { return mentionCandidates(text) }

// OnContactsChanged is Service.onContactsChanged.
func OnContactsChanged(s *Service, f func(a, b []ID)) { s.onContactsChanged(f) }

// ContactsChanged is Service.contactsChanged.
func ContactsChanged(s *Service, a, b []ID) { s.contactsChanged(a, b) }

// PresencesKept counts the users of whom anything is remembered, and on the board.
func PresencesKept(s *Service) (users, board int) {
	for i := range presenceShards {
		b := &s.Presences.board.(*memoryBoard).shards[i]
		b.mu.Lock()
		board += len(b.users)
		b.mu.Unlock()
	}
	return s.Presences.Stats().Users, board
}

// StandStill makes a fence believe that the process has stood still for so long.
func StandStill(f *Fence, d time.Duration) { f.tick.Add(-int64(d)) }

// CarriedDevices counts the devices that were taken over from other nodes, and are yet
// to come.
func CarriedDevices(s *Service) int { return int(s.Presences.shared.devices.n.Load()) }

// SweepNodes is sweepNodes for nodes that were silent for so long.
func SweepNodes(s *Service, silent time.Duration) {
	s.Presences.sweepNodes(context.Background(), silent)
}

// SharedKept is PresencesKept where there are several nodes.
func SharedKept(s *Service) (users, board int) {
	for i := range presenceShards {
		b := &s.Presences.shared.board.shards[i]
		b.mu.Lock()
		board += len(b.users)
		b.mu.Unlock()
	}
	return s.Presences.Stats().Users, board
}

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
