package redis

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/parleymq/parley/chat"
)

// kind is what stands behind a URL.
type kind int

const (
	kindAuto     kind = iota // one address, of a server or a member of a Cluster; HELLO says which
	kindCluster              // several addresses of a Cluster
	kindSentinel             // several addresses of Sentinels
)

// target is a parsed URL.
type target struct {
	kind               kind
	addrs              []string // host:port, or one path of a unix socket
	master             string   // Sentinel: the name of the master
	user, password     string
	sentinelUser       string
	sentinelPassword   string
	db                 int
	tls                *tls.Config // nil: plain text
	caFile, cert, keyF string      // PEM files for tls; see loadFiles
}

// Limits of a URL, so that reading one is bounded.
const (
	maxURL   = 8192
	maxAddrs = 64
)

// badURL returns an error about a URL. It never holds a password.
func badURL(msg string) error {
	return &chat.Error{Code: chat.Invalid, Op: "redis.New", Field: "Redis URL", Msg: msg}
}

// parseURL parses a URL of the forms in Options. It reads no file. The parsers of go-redis
// and net/url do not serve: they know no lists of hosts, refuse passwords that are not
// strictly percent-encoded, and quote the URL, with its password, in their errors.
func parseURL(raw string) (*target, error) {
	if len(raw) > maxURL {
		return nil, badURL("is longer than " + strconv.Itoa(maxURL) + " bytes")
	}
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok {
		return nil, badURL("must begin with redis://, rediss://, redis+cluster://, redis+sentinel:// or unix://")
	}
	t := &target{}
	if strings.HasPrefix(scheme, "rediss") {
		t.tls = &tls.Config{MinVersion: tls.VersionTLS12}
		scheme = "redis" + scheme[len("rediss"):]
	}
	port := "6379"
	switch scheme {
	case "redis", "unix":
	case "redis+cluster":
		t.kind = kindCluster
	case "redis+sentinel":
		t.kind, port = kindSentinel, "26379"
	default:
		return nil, badURL("has a scheme that is not redis, rediss, redis+cluster, redis+sentinel (or with rediss), or unix")
	}
	if scheme != "unix" && strings.Contains(rest, "#") {
		return nil, badURL("has a #; in a password it is written %23")
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(hosts, '@'); i >= 0 {
		if err := t.parseUser(hosts[:i]); err != nil {
			return nil, err
		}
		hosts = hosts[i+1:]
	}
	if scheme == "unix" {
		switch {
		case hosts != "":
			return nil, badURL("has a host; a socket is unix:///run/redis/redis.sock")
		case path == "" || strings.ContainsRune(path, 0):
			return nil, badURL("names no socket: want unix:///run/redis/redis.sock")
		}
		t.addrs = []string{"/" + path}
		return t, t.parseQuery(query)
	}
	if err := t.parseHosts(hosts, port); err != nil {
		return nil, err
	}
	if t.kind == kindAuto && len(t.addrs) > 1 {
		t.kind = kindCluster
	}
	if t.kind == kindSentinel {
		if t.master, path, _ = strings.Cut(path, "/"); !masterName.MatchString(t.master) {
			return nil, badURL("names no master: want redis+sentinel://host1,host2/mymaster, with a name of 1 to 128 letters, digits, and . - _")
		}
	}
	if err := t.parseDB(path); err != nil {
		return nil, err
	}
	return t, t.parseQuery(query)
}

var (
	masterName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,128}$`)
	hostPort   = regexp.MustCompile(`^(?:([a-zA-Z0-9._-]+)|\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\])(?::([1-9][0-9]{0,4}))?$`)
)

func (t *target) parseUser(info string) error {
	user, password, _ := strings.Cut(info, ":")
	var err1, err2 error
	t.user, err1 = url.PathUnescape(user)
	t.password, err2 = url.PathUnescape(password)
	if err1 != nil || err2 != nil {
		return badURL("has a user name or password that is not percent-encoded: write % as %25, / as %2F, ? as %3F")
	}
	if t.user != "" && t.password == "" {
		return badURL("has a user name without a password: want user:password@, or :password@ for the default user")
	}
	return nil
}

func (t *target) parseHosts(list, port string) error {
	for host := range strings.SplitSeq(list, ",") {
		if len(t.addrs) == maxAddrs {
			return badURL("has more than " + strconv.Itoa(maxAddrs) + " hosts")
		}
		m := hostPort.FindStringSubmatch(host)
		if m == nil || m[2] != "" && net.ParseIP(m[2]) == nil || len(m[3]) == 5 && m[3] > "65535" {
			return badURL("has a host that is not name, name:port, or [address]:port (host " + strconv.Itoa(len(t.addrs)+1) + " of the list)")
		}
		t.addrs = append(t.addrs, net.JoinHostPort(m[1]+m[2], cmp.Or(m[3], port)))
	}
	return nil
}

func (t *target) parseDB(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return badURL("has a database that is not a number from 0 to 65535")
	}
	if t.db = int(n); n != 0 && t.kind == kindCluster {
		return badURL("has a database; a Cluster has only number 0")
	}
	return nil
}

func (t *target) parseQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return badURL("has parameters that are not percent-encoded")
	}
	known := []string{"db", "tls_ca", "tls_cert", "tls_key", "tls_server_name", "tls_skip_verify", "sentinel_user", "sentinel_password"}
	for name, v := range values {
		switch {
		case !slices.Contains(known, name):
			return badURL("has a parameter that is not one of " + strings.Join(known, ", "))
		case len(v) > 1:
			return badURL("has " + name + " more than once")
		case strings.HasPrefix(name, "tls_") && t.tls == nil:
			return badURL("has " + name + " without TLS: begin it with rediss://")
		case strings.HasPrefix(name, "sentinel_") && t.kind != kindSentinel:
			return badURL("has " + name + " without Sentinel: begin it with redis+sentinel://")
		}
	}
	if values.Has("db") {
		if t.db != 0 {
			return badURL("has a database in its path and in db")
		}
		if err := t.parseDB(values.Get("db")); err != nil {
			return err
		}
	}
	t.sentinelUser, t.sentinelPassword = values.Get("sentinel_user"), values.Get("sentinel_password")
	t.caFile, t.cert, t.keyF = values.Get("tls_ca"), values.Get("tls_cert"), values.Get("tls_key")
	if (t.cert == "") != (t.keyF == "") {
		return badURL("has one of tls_cert and tls_key without the other")
	}
	if t.tls != nil {
		t.tls.ServerName = values.Get("tls_server_name")
		switch values.Get("tls_skip_verify") {
		case "", "false":
		case "true":
			t.tls.InsecureSkipVerify = true
		default:
			return badURL("has a tls_skip_verify that is neither true nor false")
		}
	}
	return nil
}

// loadFiles reads the files for TLS.
func (t *target) loadFiles() error {
	wrong := func(param string, err error) error {
		return &chat.Error{Code: chat.Invalid, Op: "redis.New", Field: "Redis URL", Msg: param + " cannot be used: " + err.Error(), Err: err}
	}
	if t.caFile != "" {
		pem, err := os.ReadFile(t.caFile)
		if err != nil {
			return wrong("tls_ca", err)
		}
		t.tls.RootCAs = x509.NewCertPool()
		if !t.tls.RootCAs.AppendCertsFromPEM(pem) {
			return badURL("tls_ca: holds no PEM certificate")
		}
	}
	if t.cert != "" {
		pair, err := tls.LoadX509KeyPair(t.cert, t.keyF)
		if err != nil {
			return wrong("tls_cert, tls_key", err)
		}
		t.tls.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// String names the target without its secrets, for the log.
func (t *target) String() string {
	s := strings.Join(t.addrs, ",")
	switch t.kind {
	case kindSentinel:
		s = "master " + t.master + " of sentinels " + s
	case kindCluster:
		s = "cluster " + s
	}
	return s
}
