package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// anyOrigin among Options.AllowedOrigins allows all of them.
const anyOrigin = "*"

// ParseOrigin returns an origin as browsers write it in the Origin header (RFC 6454, 6.2):
// scheme and host in lower case, no port if it is the scheme's own, nothing after it. So it
// may be given with capitals, with that port, and with a slash at the end. "null" stands for
// pages that have no origin, such as local files, and "*" for any.
func ParseOrigin(s string) (string, error) {
	if s == anyOrigin || s == "null" {
		return s, nil
	}
	fault := fmt.Errorf("%q is not an origin, such as https://chat.example.com", s)
	u, err := url.Parse(strings.TrimSuffix(s, "/"))
	switch {
	case err != nil || u.Scheme == "" || u.Host == "" || u.Hostname() == "" || strings.HasSuffix(u.Host, ":"):
		return "", fault
	case u.User != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.Contains(s, "#"):
		return "", fmt.Errorf("%w: it ends with the host or its port", fault)
	case strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '*' || r == ',' }):
		return "", fmt.Errorf("%w: its host is written as browsers send it, in ASCII (xn--…) and without wildcards", fault)
	}
	scheme := strings.ToLower(u.Scheme)
	return scheme + "://" + trimPort(scheme, strings.ToLower(u.Host)), nil
}

// trimPort returns a host in lower case without the port that is the scheme's own.
func trimPort(scheme, host string) string {
	if own := map[string]string{"http": ":80", "https": ":443"}[scheme]; own != "" {
		return strings.TrimSuffix(host, own)
	}
	return host
}

// origins decides for both doors which web pages may call.
type origins struct {
	allowed map[string]bool
	logger  *slog.Logger
	limit   *rate.Limiter // of log lines
}

func newOrigins(list []string, logger *slog.Logger) (*origins, error) {
	o := &origins{allowed: map[string]bool{}, logger: logger, limit: rate.NewLimiter(rate.Every(time.Minute), 10)}
	var faults []error
	for _, s := range list {
		origin, err := ParseOrigin(s)
		o.allowed[origin] = true
		faults = append(faults, err)
	}
	return o, errors.Join(faults...)
}

// allow reports whether a request comes from a page of the server's own origin or of an
// allowed one, or from no page at all. The first ten pages that do not, and then one a minute,
// are logged.
func (o *origins) allow(r *http.Request) bool {
	sent := r.Header.Get("Origin")
	if sent == "" || o.allowed[anyOrigin] {
		return true
	}
	origin, err := ParseOrigin(sent)
	if err == nil && (o.allowed[origin] || sameHost(origin, r.Host)) {
		return true
	}
	if o.limit.Allow() {
		const enough = 200 // bytes, which anybody chooses
		o.logger.WarnContext(r.Context(), "a page of another origin was refused; PARLEY_ALLOWED_ORIGINS says who may call",
			"origin", sent[:min(len(sent), enough)], "host", r.Host[:min(len(r.Host), enough)], "path", r.URL.Path[:min(len(r.URL.Path), enough)])
	}
	return false
}

// sameHost reports whether an origin is of the host that was asked for. A proxy may have taken
// TLS off, so the scheme is the origin's affair; its own port may be in Host or not.
func sameHost(origin, host string) bool {
	scheme, own, ok := strings.Cut(origin, "://")
	return ok && trimPort(scheme, strings.ToLower(host)) == own
}
