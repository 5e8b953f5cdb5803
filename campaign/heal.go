package campaign

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// How long it takes until what was lost between nodes is healed: the pair that measures
// sits at two of them, and what one sends and the other receives is noted under what was
// struck meanwhile.

// heals are the times that events took, by the name of a fault.
type heals map[string][]time.Duration

// faultList remembers what was struck when.
type faultList struct {
	mu   sync.Mutex
	list []struckFault // mu guards, in the order of their beginnings
}

// struckFault is when a fault was struck.
type struckFault struct {
	name       string
	began, end time.Duration // end 0: not over
}

func (f *faultList) begin(name string, at time.Duration) (end func(time.Duration)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := len(f.list)
	f.list = append(f.list, struckFault{name: name, began: at})
	return func(at time.Duration) {
		f.mu.Lock()
		f.list[i].end = at
		f.mu.Unlock()
	}
}

// during names the last fault that had begun by to and was not over by from; "" if
// there was none.
func (f *faultList) during(from, to time.Duration) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, one := range slices.Backward(f.list) {
		if one.began <= to && (one.end == 0 || one.end+time.Second >= from) {
			return one.name
		}
	}
	return ""
}

// noteHeal notes that an event has come from another node, to a connection that was
// there before it was sent.
func (c *campaign) noteHeal(m *message, now time.Duration) {
	what := c.struck.during(m.first, m.first) // what it was sent into counts first
	if what == "" {
		what = c.struck.during(m.first, now)
	}
	if what == "" {
		what = "(nothing)"
	}
	c.mu.Lock()
	c.heals[what] = append(c.heals[what], now-m.first)
	c.mu.Unlock()
}

// messageIn returns the message that a publication is of; nil if it is of none.
func (c *campaign) messageIn(p *packet) *message {
	var e event
	if json.Unmarshal(p.Payload, &e) != nil || e.Type != "message" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.messages[e.Content]
}

// tally adds up what the incarnations of a server have counted.
type tally struct{ past, now map[string]float64 }

// begin begins another incarnation, which counts from 0.
func (t *tally) begin() {
	past := map[string]float64{}
	t.addTo(past)
	t.past, t.now = past, nil
}

func (t *tally) addTo(sum map[string]float64) {
	for _, from := range []map[string]float64{t.past, t.now} {
		for name, n := range from {
			sum[name] += n
		}
	}
}

// tallied are the counters that a report is about, by their beginnings.
var tallied = []string{
	"parley_cluster_frames_dropped_total", "parley_cluster_frames_total", "parley_cluster_journal_lines_total", "parley_cluster_rechecks_total",
	"parley_cluster_nodes_buried_total", "parley_cluster_lost_total", "parley_cluster_failures_total", "parley_redis_frames_dropped_total",
	"parley_redis_frames_sent_total", "parley_redis_messages_missed_total", "parley_redis_messages_ignored_total", "parley_redis_flushes_total",
	"parley_redis_subscriptions_ended_total",
}

// count asks the server what it has counted. What the last second before its end adds
// is not known.
func (s *server) count(ctx context.Context, url string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	resp, err := s.c.httpc.Do(req)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	found := readMetrics(resp.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.metricsURL == url && len(found) > 0 {
		s.metrics.now = found
	}
}

// readMetrics reads the counters that are tallied, in Prometheus' text format.
func readMetrics(r io.Reader) map[string]float64 {
	found := map[string]float64{}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || !slices.ContainsFunc(tallied, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil && n > 0 {
			found[name] += n
		}
	}
	return found
}

// String is a table: how many, p50, p90, p99, the slowest.
func (h heals) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h)) {
		list := slices.Sorted(slices.Values(h[name]))
		at := func(percent int) string { return list[(len(list)-1)*percent/100].Round(time.Millisecond).String() }
		b.WriteString("  " + strings.Join([]string{pad(strconv.Itoa(len(list)), 7), pad(at(50), 9), pad(at(90), 9), pad(at(99), 9), pad(at(100), 9), name}, "  ") + "\n")
	}
	return b.String()
}

func pad(s string, n int) string { return strings.Repeat(" ", max(0, n-len(s))) + s }
