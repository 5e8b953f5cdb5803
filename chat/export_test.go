package chat

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
