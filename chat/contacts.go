package chat

import "sync"

// contactsListeners hear that users became contacts, or ceased to be: people who
// share a conversation of at most MaxContactMembers members, and have not blocked
// each other.
type contactsListeners struct {
	mu   sync.RWMutex
	list []func(a, b []ID) // mu guards
}

// onContactsChanged has f called after the commit of whatever may have made members
// of a and members of b contacts of each other, or ended that; a and b may be the
// same. Whether they are contacts now, f has to look up. It must not block, and must
// not change or keep what it is given.
func (s *Service) onContactsChanged(f func(a, b []ID)) {
	s.contacts.mu.Lock()
	defer s.contacts.mu.Unlock()
	s.contacts.list = append(s.contacts.list, f)
}

func (s *Service) contactsChanged(a, b []ID) {
	s.contacts.mu.RLock()
	defer s.contacts.mu.RUnlock()
	for _, f := range s.contacts.list {
		f(a, b)
	}
}
