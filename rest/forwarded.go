package rest

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Forwarded returns a handler that honours X-Forwarded-For in requests from the trusted
// addresses: reverse proxies that append the address of their client. It sets the
// RemoteAddr that next sees to the client's address, with port 0. In requests from any
// other address the header is ignored. Without trusted addresses Forwarded returns next.
//
// The client is the last address in the header that is not itself trusted: the client
// may have written anything before it. An entry that is not an address ends the search;
// then the address after it counts, that of the proxy that passed the entry on.
func Forwarded(trusted []netip.Prefix, next http.Handler) http.Handler {
	if len(trusted) == 0 {
		return next
	}
	trusts := func(a netip.Addr) bool {
		return slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(a) })
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		peer := remoteAddr(r).Unmap().WithZone("")
		if client := forwardedFor(peer, r.Header.Values("X-Forwarded-For"), trusts); client != peer {
			named := *r // a handler must not change the request it was given
			named.RemoteAddr = netip.AddrPortFrom(client, 0).String()
			r = &named
		}
		next.ServeHTTP(w, r)
	})
}

// forwardedFor walks from the peer to the client, from the end of the header on.
func forwardedFor(peer netip.Addr, header []string, trusts func(netip.Addr) bool) netip.Addr {
	for i := len(header) - 1; i >= 0; i-- {
		rest := header[i]
		for rest != "" {
			if !trusts(peer) {
				return peer
			}
			comma := strings.LastIndexByte(rest, ',')
			addr, ok := parseForwarded(rest[comma+1:])
			if !ok {
				return peer
			}
			peer, rest = addr, rest[:max(0, comma)]
		}
	}
	return peer
}

// parseForwarded reads one entry: an address, and with some proxies its port.
func parseForwarded(s string) (netip.Addr, bool) {
	s = strings.Trim(s, " \t")
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		addr = ap.Addr()
	}
	return addr.Unmap().WithZone(""), true
}
