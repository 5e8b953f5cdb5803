package campaign

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// String is the report for people.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Seed %d: %d rounds in %v, %d events in all logs; at most %d MiB of memory in the server.\n",
		r.Seed, r.Rounds, r.Elapsed.Round(time.Second), r.Events, r.PeakKiB/1024)
	if n := len(r.Latencies); n > 0 {
		slices.Sort(r.Latencies)
		fmt.Fprintf(&b, "The steady pair, while nothing was down: %d events, p50 %v, p99 %v, slowest %v.\n", n,
			r.Latencies[n/2].Round(100*time.Microsecond), r.Latencies[n*99/100].Round(100*time.Microsecond), r.Latencies[n-1].Round(100*time.Microsecond))
	}
	if n := len(r.Levels); n > 0 {
		slices.Sort(r.Levels)
		fmt.Fprintf(&b, "From the end of a round's faults until everybody was back and had everything: p50 %v, slowest %v.\n",
			r.Levels[n/2].Round(100*time.Millisecond), r.Levels[n-1].Round(100*time.Millisecond))
	}
	if len(r.Heals) > 0 {
		fmt.Fprintf(&b, "From one node to another, by what was struck meanwhile: events, p50, p90, p99, slowest.\n%s", r.Heals)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Metrics)) {
		fmt.Fprintf(&b, "  %9.0f  %s\n", r.Metrics[name], name)
	}
	var names []string
	for name := range r.Counts {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, faults := range []bool{false, true} {
		for _, name := range names {
			if strings.HasPrefix(name, "fault: ") == faults {
				fmt.Fprintf(&b, "  %9d  %s\n", r.Counts[name], name)
			}
		}
	}
	if len(r.Violations) == 0 {
		b.WriteString("No promise was broken.\n")
	} else {
		fmt.Fprintf(&b, "%d violations, the first: %s\n", len(r.Violations), r.Violations[0])
	}
	return b.String()
}
