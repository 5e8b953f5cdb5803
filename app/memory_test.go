package app

import "testing"

func TestSettled(t *testing.T) {
	t.Parallel()
	var s settled
	for i, test := range []struct {
		connections int64
		over        bool
	}{
		{0, false},
		{900, false},
		{900, false}, // too few
		{2000, false},
		{9000, false},
		{10_000, false},
		{10_100, true},
		{10_100, false},
		{10_900, false},
		{12_000, false},
		{14_000, false},
		{14_000, false}, // less than half
		{8000, false},
		{3000, false},
		{3000, true},
		{3000, false},
		{0, false},
		{0, true},
		{0, false},
	} {
		if over := s.count(test.connections); over != test.over {
			t.Errorf("count %d, of %d connections: %v, want %v", i, test.connections, over, test.over)
		}
	}
}
