package rest_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/parleymq/parley/rest"
)

var trustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}

// seenThrough is the address that a handler sees behind Forwarded.
func seenThrough(remote string, header ...string) string {
	var seen string
	h := rest.Forwarded(trustedProxies, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.RemoteAddr }))
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	r.RemoteAddr = remote
	r.Header["X-Forwarded-For"] = header
	h.ServeHTTP(httptest.NewRecorder(), r)
	return seen
}

// A client cannot choose its address: only what trusted proxies have appended counts,
// from the end up to the first who is not one of them.
func TestForwarded(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		remote string
		header []string
		want   string
	}{
		{"10.0.0.1:5", nil, "10.0.0.1:5"},
		{"10.0.0.1:5", []string{"203.0.113.7"}, "203.0.113.7:0"},
		{"[::ffff:10.0.0.1]:5", []string{"203.0.113.7"}, "203.0.113.7:0"},
		{"[fd00::1]:5", []string{"2001:db8::7"}, "[2001:db8::7]:0"},
		{"10.0.0.1:5", []string{"1.1.1.1, 203.0.113.7"}, "203.0.113.7:0"},                         // 1.1.1.1 is the client's claim
		{"10.0.0.1:5", []string{"1.1.1.1, 203.0.113.7, 10.0.0.2 ,10.0.0.3"}, "203.0.113.7:0"},     // a chain of proxies
		{"10.0.0.1:5", []string{"1.1.1.1", "203.0.113.7, 10.0.0.2", "10.0.0.3"}, "203.0.113.7:0"}, // RFC 9110, 5.3
		{"10.0.0.1:5", []string{"203.0.113.7:4660"}, "203.0.113.7:0"},
		{"10.0.0.1:5", []string{"[2001:db8::7]:4660"}, "[2001:db8::7]:0"},
		{"10.0.0.1:5", []string{"[2001:db8::7]"}, "[2001:db8::7]:0"},
		{"10.0.0.1:5", []string{"10.0.0.2"}, "10.0.0.2:0"}, // a client within
		{"10.0.0.1:5", []string{"203.0.113.7, unknown"}, "10.0.0.1:5"},
		{"10.0.0.1:5", []string{"203.0.113.7, junk, 10.0.0.2"}, "10.0.0.2:0"},
		{"10.0.0.1:5", []string{""}, "10.0.0.1:5"},
		{"10.0.0.1:5", []string{","}, "10.0.0.1:5"},
		{"10.0.0.1:5", []string{"203.0.113.7,"}, "10.0.0.1:5"},
		{"203.0.113.9:5", []string{"10.0.0.2, 127.0.0.1"}, "203.0.113.9:5"},
		{"@", []string{"203.0.113.7"}, "@"}, // a unix socket
	} {
		if got := seenThrough(tt.remote, tt.header...); got != tt.want {
			t.Errorf("from %s with %q: %s, want %s", tt.remote, tt.header, got, tt.want)
		}
	}
	if got := seenThrough("10.0.0.1:5", strings.Repeat("10.0.0.2,", 7000)+"10.0.0.3"); got != "10.0.0.2:0" {
		t.Errorf("a header of 60 KiB: %s", got)
	}
}

// Whatever the header holds, the address is one, and is never older than the last
// entry that is not trusted.
func FuzzForwarded(f *testing.F) {
	f.Add("1.1.1.1, 203.0.113.7, 10.0.0.2", "203.0.113.7")
	f.Add("[::1]:5, fd00::1%eth0,,", "2001:db8::7")
	f.Fuzz(func(t *testing.T, claimed, client string) {
		if _, err := netip.ParseAddrPort(seenThrough("10.0.0.1:5", claimed)); err != nil {
			t.Fatalf("X-Forwarded-For: %q became the address %v", claimed, err)
		}
		addr, err := netip.ParseAddr(client)
		if err != nil || addr.Zone() != "" {
			return
		}
		for _, p := range trustedProxies {
			if p.Contains(addr.Unmap()) {
				return
			}
		}
		if seen, _ := netip.ParseAddrPort(seenThrough("10.0.0.1:5", claimed+", "+client)); seen.Addr() != addr.Unmap() {
			t.Errorf("%s claims %q, and is taken for %s", client, claimed, seen)
		}
	})
}
