package chat

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// MaxMentions is how many names a message can mention; further ones are plain text.
const MaxMentions = 50

const (
	maxKnownNames = 100_000 // after which the cache is emptied
	maxNames      = 4       // that one mention may stand for
)

// NameStore finds users by name.
type NameStore interface {
	// FindUsernames returns the ids of those user names that exist. It blocks for a
	// round trip; Unavailable may be repeated.
	FindUsernames(ctx context.Context, usernames []string) (map[string]ID, error)
}

// names caches the ids of user names, which never change; a full cache is emptied. It is
// safe for concurrent use.
type names struct {
	mu  sync.RWMutex
	ids map[string]ID // mu guards
}

// find returns the ids of those names that exist.
func (n *names) find(ctx context.Context, store NameStore, wanted []string) (map[string]ID, error) {
	found := map[string]ID{}
	var unknown []string
	n.mu.RLock()
	for _, name := range wanted {
		if id, ok := n.ids[name]; ok {
			found[name] = id
		} else {
			unknown = append(unknown, name)
		}
	}
	n.mu.RUnlock()
	if len(unknown) == 0 {
		return found, nil
	}
	more, err := store.FindUsernames(ctx, unknown)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ids == nil || len(n.ids) >= maxKnownNames {
		n.ids = map[string]ID{}
	}
	for name, id := range more {
		found[name] = id
		n.ids[name] = id
	}
	return found, nil
}

// mentioned returns the members whom a text mentions, in the order of the text. A mention
// is "@" and a user name, in any case, that does not follow a letter or digit (as in an
// email address). One that ends in punctuation ("@ann.") stands for the longest existing
// name. It may wait for the store.
func (s *Service) mentioned(ctx context.Context, text string, r *Roster) ([]ID, error) {
	candidates := mentionCandidates(text)
	if len(candidates) == 0 {
		return nil, nil
	}
	var wanted []string
	for _, c := range candidates {
		wanted = append(wanted, c...)
	}
	ctx, cancel := WithDeadline(ctx, storePatience, "chat.mentioned")
	defer cancel()
	ids, err := s.names.find(ctx, s.store, wanted)
	if err != nil {
		return nil, err
	}
	var list []ID
	for _, c := range candidates {
		for _, name := range c {
			if id, ok := ids[name]; ok {
				if r.Has(id) && !slices.Contains(list, id) {
					list = append(list, id)
				}
				break
			}
		}
	}
	return list, nil
}

// mentionCandidates returns, for each mention in a text, the user names that it may stand
// for, longest first.
func mentionCandidates(text string) [][]string {
	var list [][]string
	for at := 0; len(list) < MaxMentions; {
		i := strings.IndexByte(text[at:], '@')
		if i < 0 {
			break
		}
		i += at
		end := i + 1
		for end < len(text) && isNameByte(text[end]) {
			end++
		}
		at = end
		if i > 0 && (isNameByte(text[i-1]) && !isNamePunctuation(text[i-1]) || text[i-1] == '@') {
			continue
		}
		if c := namesOf(strings.ToLower(text[i+1 : end])); len(c) > 0 {
			list = append(list, c)
		}
	}
	return list
}

// isNamePunctuation reports whether the byte is allowed in user names and may also be
// punctuation of the text.
func isNamePunctuation(c byte) bool { return c == '.' || c == '-' || c == '_' }

// namesOf returns the user names that a word may stand for: the word, and the word without
// some or all of the punctuation at its end.
func namesOf(word string) []string {
	var list []string
	for ; word != ""; word = word[:len(word)-1] {
		if ValidateUsername(word) == nil {
			list = append(list, word)
		}
		if !isNamePunctuation(word[len(word)-1]) || len(list) == maxNames {
			break
		}
	}
	return list
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || isNamePunctuation(c)
}
