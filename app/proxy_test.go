package app_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/cluster/redistest"
	"github.com/parleymq/parley/identity"
	"github.com/parleymq/parley/programtest"
)

// A balancer is an address of Parley's as clients see it, which passes things on.
type balancer struct{ mqtt, http string }

// Behind a balancer that Parley trusts, the limits count the clients and not the
// balancer, at every door: whoever has used up the tries of one address is refused
// there by all, and another address is not.
func TestLimitsSeeThroughBalancers(t *testing.T) {
	t.Parallel()
	const tries = 3 // one at each door
	for _, tt := range []struct {
		name  string
		begin func(t *testing.T, a *apptest.App) balancer
	}{
		{"haproxy", func(t *testing.T, a *apptest.App) balancer { return haproxy(t, a) }},
		{"nginx", func(t *testing.T, a *apptest.App) balancer { return nginx(t, a) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := apptest.Start(t, func(o *app.Options) {
				o.LoginRate = identity.Rate{Every: time.Hour, Burst: tries}
				o.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
			})
			u := a.User(t, "u")
			b := tt.begin(t, a)
			for i, address := range []string{"127.0.0.8", "127.0.0.9"} {
				doors := b.doors(t, address, u)
				for name, door := range doors {
					if got := door(); got != "wrong" {
						t.Fatalf("%s, the first time by %s: %s", address, name, got)
					}
				}
				for name, door := range doors {
					if got := door(); got != "limited" {
						t.Errorf("%s, once more by %s: %s, want limited", address, name, got)
					}
				}
				if i == 0 && a.REST(t, apptest.User{}, http.MethodGet, "/readyz", nil).Status != http.StatusOK { // straight
					t.Error("whoever comes without a balancer is not served")
				}
			}
		})
	}
}

// doors are the ways to show a wrong password from an address.
func (b balancer) doors(t *testing.T, address string, u apptest.User) map[string]func() string {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: brokertest.Patience}
	probe, err := dialer.Dial("tcp", b.mqtt)
	if err != nil {
		t.Skipf("no connection from %s: %v", address, err) // only Linux has all of 127.0.0.0/8
	}
	_ = probe.Close()
	connect := func(c *brokertest.Client) string {
		ack := c.Connect(brokertest.Connect{ClientID: address, Username: u.Username, Password: "a guess of eve's"})
		c.Close()
		switch ack.ReasonCode {
		case 0x86:
			return "wrong"
		case 0x97:
			return "limited"
		}
		return brokertest.Describe(ack)
	}
	return map[string]func() string{
		"MQTT": func() string {
			conn, err := dialer.Dial("tcp", b.mqtt)
			if err != nil {
				return err.Error()
			}
			return connect(brokertest.New(t, conn))
		},
		"WebSocket": func() string { return connect(brokertest.DialWebSocketBy(t, dialer, "ws://"+b.http+"/mqtt")) },
		"REST": func() string {
			body, _ := json.Marshal(map[string]string{"username": u.Username, "password": "a guess of eve's"})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+b.http+"/api/sessions", bytes.NewReader(body))
			if err != nil {
				return err.Error()
			}
			req.Header.Set("Content-Type", "application/json")
			req.Header.Set("X-Forwarded-For", "198.51.100."+fmt.Sprint(time.Now().UnixNano()%250)) // a claim that nobody believes
			client := http.Client{Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}, Timeout: brokertest.Patience}
			resp, err := client.Do(req)
			if err != nil {
				return err.Error()
			}
			_ = resp.Body.Close()
			switch resp.StatusCode {
			case http.StatusUnauthorized:
				return "wrong"
			case http.StatusTooManyRequests:
				return "limited"
			}
			return resp.Status
		},
	}
}

// From a trusted address nothing but a PROXY header begins a connection, and from
// others a header is nonsense, at both doors. Whoever claims to be somebody else is
// not believed.
func TestProxyHeadersAreForBalancers(t *testing.T) {
	t.Parallel()
	const header = "PROXY TCP4 203.0.113.7 10.0.0.1 4660 1883\r\n"
	start := func(from string) (*apptest.App, apptest.User) {
		a := apptest.Start(t, func(o *app.Options) { o.ProxyFrom = []netip.Prefix{netip.MustParsePrefix(from)} })
		return a, a.User(t, "u")
	}
	trusting, u := start("127.0.0.1/32")
	others, w := start("192.0.2.0/24")

	c := trusting.Dial(t)
	c.SendBytes([]byte(header))
	c.MustConnect(u.As(brokertest.Connect{ClientID: "behind"}))
	c.Ping()
	c = trusting.Dial(t)
	c.SendBytes(c.Encode(u.As(brokertest.Connect{ClientID: "without"}).Packet()))
	c.ExpectClosed()
	c = others.Dial(t)
	c.SendBytes([]byte(header))
	c.ExpectClosed()
	others.Device(t, w, brokertest.Connect{ClientID: "straight"}).Ping()

	get := func(a *apptest.App, before string) string {
		conn, err := net.Dial("tcp", a.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(brokertest.Patience))
		if _, err := fmt.Fprintf(conn, "%sGET /healthz HTTP/1.0\r\n\r\n", before); err != nil {
			t.Fatal(err)
		}
		status := make([]byte, len("HTTP/1.0 200"))
		_, _ = conn.Read(status)
		return string(status[len("HTTP/1.0 "):])
	}
	for _, tt := range []struct {
		what   string
		a      *apptest.App
		before string
		want   string
	}{
		{"trusted, without a header", trusting, "", "200"},
		{"trusted, with one", trusting, header, "200"},
		{"trusted, of the balancer itself", trusting, "PROXY UNKNOWN\r\n", "200"},
		{"not trusted, without", others, "", "200"},
		{"not trusted, with one", others, header, "400"},
	} {
		if got := get(tt.a, tt.before); got != tt.want {
			t.Errorf("HTTP, %s: %s, want %s", tt.what, got, tt.want)
		}
	}
}

// While a node drains, whoever comes through the balancer is let in elsewhere, at once
// or after the balancer's own retries, and hears nothing of it.
func TestDrainBehindABalancer(t *testing.T) {
	t.Parallel()
	nodes := startNodes(t, 2, redistest.Start(t).URL(), func(o *app.Options) {
		o.Drain = time.Hour
		o.ProxyFrom = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	leaves, stays := nodes[0], nodes[1]
	t.Cleanup(stays.Hurry)
	b := haproxy(t, leaves, stays)
	u := leaves.User(t, "u")
	probe := func() int { // how many connections the one that leaves has
		for i := range 8 {
			brokertest.Open(t, b.mqtt, u.As(brokertest.Connect{ClientID: fmt.Sprint("before", i)}))
		}
		return connections(t, leaves)
	}
	apptest.Eventually(t, "both get connections", func() bool { n := probe(); return n > 0 && connections(t, stays) > 0 })
	stopped := make(chan error, 1)
	go func() { stopped <- leaves.Stop(t.Context()) }()
	apptest.Eventually(t, "it drains", func() bool {
		return leaves.REST(t, u, http.MethodGet, "/readyz", nil).Status == http.StatusServiceUnavailable
	})
	had := connections(t, leaves)
	for i := range 20 {
		brokertest.Open(t, b.mqtt, u.As(brokertest.Connect{ClientID: fmt.Sprint("during", i)})).Ping()
	}
	if n := connections(t, leaves); n > had {
		t.Errorf("the node that drains has %d connections, and had %d", n, had)
	}
	leaves.Hurry()
	if err := <-stopped; err != nil {
		t.Error("Stop:", err)
	}
}

// connections is how many MQTT connections a node has.
func connections(t *testing.T, a *apptest.App) int {
	t.Helper()
	for line := range strings.Lines(a.Metrics(t)) {
		var n int
		if _, err := fmt.Sscanf(line, "parley_mqtt_connections %d", &n); err == nil {
			return n
		}
	}
	t.Fatal("there is no metric parley_mqtt_connections")
	return 0
}

// haproxy runs HAProxy with the settings of docs/haproxy.cfg between clients and
// one or two nodes.
func haproxy(t *testing.T, nodes ...*apptest.App) balancer {
	path := programtest.Path(t, "haproxy")
	b := balancer{mqtt: freeAddr(t), http: freeAddr(t)}
	replace := []string{"bind :1883", "bind " + b.mqtt, "bind :8080", "bind " + b.http, "maxconn 400000", "maxconn 200", "slowstart 30s", ""}
	for i, n := range nodes {
		_, port, _ := net.SplitHostPort(n.HTTPAddr())
		replace = append(replace, fmt.Sprintf("10.0.0.1%d:1883", i+1), n.MQTTAddr()+" check port "+port, fmt.Sprintf("10.0.0.1%d:8080", i+1), n.HTTPAddr())
	}
	run(t, b, path, "-db", "-f", configured(t, "haproxy.cfg", len(nodes), replace...))
	return b
}

// nginx runs nginx with the settings of docs/nginx.conf.
func nginx(t *testing.T, a *apptest.App) balancer {
	path := programtest.Path(t, "nginx")
	b := balancer{mqtt: freeAddr(t), http: freeAddr(t)}
	dir := t.TempDir()
	var temp strings.Builder
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "\n    %s_temp_path %s/%s;", what, dir, what)
	}
	config := configured(t, "nginx.conf", 1,
		"listen 1883", "listen "+b.mqtt, "listen 8080", "listen "+b.http, "10.0.0.11:1883", a.MQTTAddr(), "10.0.0.11:8080", a.HTTPAddr(),
		"worker_rlimit_nofile 1048576;", "", "200000", "200", "\nhttp {", "\nhttp {"+temp.String(), "auto;", "1;")
	run(t, b, path, "-c", config, "-e", filepath.Join(dir, "error.log"), "-g", "daemon off; pid "+dir+"/pid;")
	return b
}

// configured writes a file of docs with the replacements, and without the servers of
// other nodes than the first ones.
func configured(t *testing.T, name string, nodes int, replace ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		var n int
		if _, after, ok := strings.Cut(line, "10.0.0.1"); ok && strings.Contains(line, "server ") {
			_, _ = fmt.Sscanf(after, "%d:", &n)
		}
		if n <= nodes {
			lines = append(lines, line)
		}
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(b), replace[i]) {
			t.Fatalf("docs/%s does not say %q any more", name, replace[i])
		}
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(strings.NewReplacer(replace...).Replace(strings.Join(lines, ""))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a balancer until the test ends, and returns when it serves.
func run(t *testing.T, b balancer, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	var said bytes.Buffer // of cmd, until it has ended
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for the test, which ends it then
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process, below at the latest
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if t.Failed() {
			t.Logf("%s said:\n%s", path, said.String())
		}
	})
	apptest.Eventually(t, path+" serves", func() bool {
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", path, err, said.String())
		default:
		}
		resp, err := http.Get("http://" + b.http + "/readyz")
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// freeAddr is an address of this machine on which nobody listens.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
