package delivery

// WindowCounts returns what the session's window says is on its way, and of that to
// device topics, and the same counted anew.
func (s *Session) WindowCounts() (active, devices, countedActive, countedDevices int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.window.n {
		if e := s.window.at(i); e.state != settled && !e.idle {
			countedActive++
			if e.device != nil {
				countedDevices++
			}
		}
	}
	return s.window.active, s.window.devices, countedActive, countedDevices
}

// Waiting returns how many publications wait in the queue, and their bytes.
func (q *Queue) Waiting() (n, bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.reliable) + len(q.qos0), q.bytes
}
