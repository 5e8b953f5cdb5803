package mosquitto_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	mosquitto "github.com/parleymq/parley/mosquitto-compat"
)

func load(t testing.TB, text string) *mosquitto.Config {
	t.Helper()
	c, err := mosquitto.Load(file(t, text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// describe puts what a configuration does into one line.
func describe(c *mosquitto.Config) string {
	var parts []string
	for _, l := range c.Listeners {
		s := l.Network + " " + l.Address
		for what, is := range map[string]bool{" ws": l.WebSocket, " tls": l.TLS != nil, " anonymous": l.Security.AllowAnonymous, " max": l.MaxConnections > 0} {
			if is {
				s += what
			}
		}
		words := strings.Fields(s)
		slices.Sort(words[2:])
		if f := l.Security.PasswordFile; f != "" {
			words = append(words, "p="+f)
		}
		if f := l.Security.ACLFile; f != "" {
			words = append(words, "a="+f)
		}
		parts = append(parts, strings.Join(words, " "))
	}
	return strings.Join(parts, ", ")
}

// Which listeners there are, and by whose rules.
func TestListeners(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ text, want string }{
		{"", "tcp 127.0.0.1:1883 anonymous, tcp [::1]:1883 anonymous"},
		{"allow_anonymous false\npassword_file /p", "tcp 127.0.0.1:1883 p=/p, tcp [::1]:1883 p=/p"},
		{"listener 1884", "tcp :1884"},
		{"listener 1884 10.0.0.1 # inside\nallow_anonymous true", "tcp 10.0.0.1:1884 anonymous"},
		{"listener 1884\nprotocol websockets\nlistener 0 /run/m.sock\nsocket_domain ipv6", "tcp :1884 ws, unix /run/m.sock"},
		{"port 1885\nbind_address 10.0.0.1", "tcp 10.0.0.1:1885"},
		{"listener 1884\nport 1885", "tcp :1884, tcp :1885"},
		{"socket_domain ipv4\nport 1883", "tcp4 :1883"},
		{"max_connections 5\nlistener 1884", "tcp :1884, tcp :1883 max"}, // as in Mosquitto: the default listener is there, too
		{"max_connections -1\nlistener 1884", "tcp :1884"},
		{"password_file /p\nlistener 1\nlistener 2\nacl_file /a", "tcp :1 p=/p a=/a, tcp :2 p=/p a=/a"},
		{"per_listener_settings true\nlistener 1\npassword_file /p\nlistener 2\nacl_file /a\nallow_anonymous true", "tcp :1 p=/p, tcp :2 anonymous a=/a"},
		{"per_listener_settings true\npassword_file /p\nlistener 1", "tcp :1, tcp :1883 p=/p"},
		{"listener 8883\ncertfile c\nkeyfile k\nlistener 1884", "tcp :8883 tls, tcp :1884"},
	} {
		c := load(t, tt.text)
		if err := c.Err(); err != nil || describe(c) != tt.want {
			t.Errorf("%q is %q (%v), want %q", tt.text, describe(c), err, tt.want)
		}
	}
	c := load(t, "listener 1\ncertfile c\nkeyfile k\ncafile a\nrequire_certificate true\nuse_identity_as_username 1\ntls_version tlsv1.3\nciphers ECDHE-RSA-AES256-GCM-SHA384\npersistent_client_expiration 2w\nmax_packet_size 1000\nmax_inflight_messages 7\nwebsockets_origin https://a\nuse_username_as_clientid true\nallow_zero_length_clientid false")
	l := c.Listeners[0]
	if c.Err() != nil || l.TLS == nil || !l.TLS.RequireClient || !l.NameFromCertificate || !l.NameIsClientID || !l.Security.NoEmptyClientID || l.TLS.MinVersion != tls.VersionTLS13 ||
		l.TLS.CAFile != "a" || len(l.TLS.CipherSuites) != 1 || c.SessionExpiry != 14*24*time.Hour || c.MaxPacketSize != 1000 || c.MaxInflight != 7 || len(l.Origins) != 1 {
		t.Errorf("%+v, %+v, %v", c, l, c.Err())
	}
}

// Files of a folder are read in the order of Mosquitto, each from the default listener
// on, and a fault in one is named by its own line.
func TestIncludeDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"b.conf": "listener 2\ninclude_dir /nowhere", "A.conf": "listener 1", "c.conf": "\n\nmax_connections 3\nnonsense", "d.txt": "listener 4", ".conf": "listener 5",
	} {
		write(t, filepath.Join(dir, name), text)
	}
	c := load(t, "listener 9\ninclude_dir "+dir+"\nmax_connections 1\n")
	if want := "tcp :9 max, tcp :1, tcp :2, tcp :1883 max"; describe(c) != want {
		t.Errorf("got %q, want %q", describe(c), want)
	}
	if err := c.Err(); err == nil || err.Error() != filepath.Join(dir, "c.conf")+":4: nonsense: there is no such option" {
		t.Errorf("got %v", err)
	}
}

// TestConfigLikeMosquitto compares which configurations are taken. Where Parley asks
// for more, or less, the difference has a name in DIVERGENCES.md.
func TestConfigLikeMosquitto(t *testing.T) {
	t.Parallel()
	program(t)
	missing, folder := filepath.Join(t.TempDir(), "missing"), t.TempDir()
	passwords := file(t, "")
	for _, tt := range []struct{ text, differs string }{
		{"", ""},
		{"   \n\r\n#x\n\n", ""},
		{"   # y", ""},
		{"\tallow_anonymous true", ""},
		{"\ufeffallow_anonymous true", ""},
		{"allow_anonymous true\r\nmax_connections 5\r\n", ""},
		{"allow_anonymous yes", ""},
		{"allow_anonymous", ""},
		{"allow_anonymous true false", "more than one value"},
		{"allow_anonymous true # for now", ""},
		{"max_connections many", "numbers"},
		{"max_connections 5x", "numbers"},
		{"max_connections", "missing values"},
		{"max_packet_size 19", ""},
		{"max_packet_size 0", ""},
		{"max_packet_size 20", ""},
		{"max_packet_size 16777216", ""},
		{"max_packet_size 16777217", "max_packet_size"},
		{"message_size_limit 16711680", ""},
		{"message_size_limit 16711681", "max_packet_size"},
		{"max_inflight_messages 65536", ""},
		{"max_inflight_messages 2048", ""},
		{"max_inflight_messages 2049", "max_inflight_messages"},
		{"persistent_client_expiration 136y", ""},
		{"persistent_client_expiration 137y", "persistent_client_expiration"},
		{"max_qos 3", ""},
		{"max_qos 1", ""},
		{"protocol carrier-pigeon", ""},
		{"protocol", "missing values"},
		{"unknown_option true", ""},
		{"LISTENER 1883", ""},
		{"listener", ""},
		{"listener 0", ""},
		{"listener 65536", ""},
		{"listener -1", ""},
		{"password_file " + missing, ""},
		{"password_file " + passwords, ""},
		{"password_file " + passwords + "\npassword_file " + passwords, ""},
		{"password_file", ""},
		{"acl_file " + missing, ""},
		{"include_dir " + missing, ""},
		{"include_dir " + folder, ""},
		{"include_dir", ""},
		{"allow_anonymous true\nper_listener_settings true", ""},
		{"per_listener_settings true\nallow_anonymous true", ""},
		{"persistent_client_expiration 14d", ""},
		{"persistent_client_expiration 0d", ""},
		{"persistent_client_expiration 14", ""},
		{"persistent_client_expiration d", ""},
		{"socket_domain ipv5", ""},
		{"tls_version tlsv9", "incomplete TLS"}, // Mosquitto does not look at it without a certificate
		{"certfile " + passwords, "incomplete TLS"},
		{"require_certificate true", "incomplete TLS"},
		{"use_identity_as_username true", "incomplete TLS"},
		{"use_subject_as_username true", "use_subject_as_username"},
		{"psk_file " + passwords, "pre-shared keys"},
		{"psk_hint x", "pre-shared keys"},
		{"mount_point x/", "mount_point"},
		{"mount_point x/#", ""},
		{"clientid_prefixes x", "clientid_prefixes"},
		{"crlfile " + missing, "crlfile"},
		{"plugin " + missing, ""},
		{"auth_opt_x y", ""},
		{"log_type everything", "logging"},
		{"log_dest file", "logging"},
		{"log_facility 9", "logging"},
		{"pid_file", ""},
		{"user", ""},
		{"topic a out", ""},
		{"address localhost", ""},
		{"connection a\naddress 127.0.0.1:1\ntopic a out", ""},
		{"connection a\naddress 127.0.0.1:1", "bridges"},
		{"retry_interval", ""},
		{"autosave_interval x", "numbers"},
		{"set_tcp_nodelay maybe", ""},
		{"persistence_location \xff", ""},
		{"upgrade_outgoing_qos true", ""},
		{"check_retain_source true", ""},
		{"http_dir " + folder, ""},
		{"max_keepalive 10", ""},
		{"max_keepalive 99999", "values of ignored options"},
		{"max_topic_alias 10", ""},
		{"websockets_headers_size 1024", ""},
	} {
		conf := listener + tt.text
		r, said := start(t, conf)
		c := load(t, strings.ReplaceAll(conf, "SOCKET", "/s"))
		mosquitto.Open(c, nil)
		if r != nil {
			r.quiet()
		}
		compare(t, fmt.Sprintf("%q", tt.text), tt.differs, r != nil, c.Err() == nil, fmt.Sprintf("%v; mosquitto: %s", c.Err(), said))
	}
}

// Every option of Mosquitto's manual is known: taken, or refused with a reason.
func TestManual(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/options.txt")
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(b)) {
		c := load(t, "connection x\n"+name+" 1")
		for _, n := range c.Notes {
			if n.Option == name && strings.Contains(n.Text, "no such option") {
				t.Errorf("%s is not known", name)
			}
			if n.Option == name && n.Verdict != mosquitto.Taken && n.Text == "" {
				t.Errorf("%s is %s without a reason", name, n.Verdict)
			}
		}
	}
}

// Nothing of a line goes by without a word, no secret is shown, and nothing that a
// file says steers the terminal.
func TestReport(t *testing.T) {
	t.Parallel()
	c := load(t, "listener 1884\nconnection c\nremote_password hush\nbridge_psk 0123\nauth_opt_pw hush\nmax_keepalive 5\npid_file /run/\x1b[31mred\n\x1b[2J true\nallow_anonymous true\n")
	var b bytes.Buffer
	if err := c.Report(&b); err != nil {
		t.Fatal(err)
	}
	out := b.String()
	for _, never := range []string{"hush", "0123", "\x1b"} {
		if strings.Contains(out, never) {
			t.Errorf("the report shows %q:\n%s", never, out)
		}
	}
	for _, want := range []string{"     1  listener 1884", "     3  remote_password …", "     6  max_keepalive 5", "ignored", "refused", "2 lines taken, 0 with a difference, 4 ignored, 3 refused."} {
		if !strings.Contains(out, want) {
			t.Errorf("the report lacks %q:\n%s", want, out)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("listener 1883\nallow_anonymous true\nprotocol websockets\n")
	f.Add("per_listener_settings true\nlistener 1\npassword_file x\ncertfile a\nkeyfile b\n")
	f.Add("connection a\naddress b\ntopic # both 2 a b\nauth_opt_x y")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "include_dir") {
			return // it reads the machine's
		}
		c := mosquitto.Parse("fuzz", []byte(text))
		var b bytes.Buffer
		if err := c.Report(&b); err != nil {
			t.Fatal(err)
		}
		for _, l := range c.Listeners {
			if l.Security == nil || l.Network == "" || l.Address == "" && c.Err() == nil {
				t.Errorf("listener %+v", l)
			}
		}
		if len(c.Listeners) == 0 {
			t.Error("no listener")
		}
	})
}
