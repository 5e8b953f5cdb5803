package mosquitto

import (
	"crypto/tls"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/parleymq/parley/chat"
)

// kind is the form of an option's value.
type kind int

const (
	text   kind = iota // the rest of the line, without blanks around it
	word               // one word
	flag               // true or false, 1 or 0
	number             // a whole number
	rest               // anything, nothing included
)

// scope is what an option belongs to.
type scope int

const (
	ofAll scope = iota
	ofListener
	ofSecurity
)

// value is what follows an option's name.
type value struct {
	name   string
	text   string
	flag   bool
	number int
}

// option is one that mosquitto.conf may hold.
type option struct {
	kind     kind
	scope    scope
	min, max int      // of a number; max 0: any
	want     []string // the words that there are; none: any
	bridge   bool     // it describes a bridge
	secret   bool     // its value is not shown
	take     func(*parser, value) (Verdict, string)
}

// ignored returns an option that has no effect, with the reason.
func ignored(k kind, why string) option {
	return option{kind: k, take: func(*parser, value) (Verdict, string) { return Ignored, why }}
}

// refused returns an option that Parley does not implement, where starting without it
// would be less safe than the file says.
func refused(k kind, why string) option {
	return option{kind: k, take: func(*parser, value) (Verdict, string) { return Refused, why }}
}

// flagUnless returns a flag that makes no difference, but with one value, which has the
// verdict and its reason.
func flagUnless(odd bool, verdict Verdict, why string) option {
	return option{kind: flag, take: func(_ *parser, v value) (Verdict, string) {
		if v.flag == odd {
			return verdict, why
		}
		return Taken, ""
	}}
}

// taken returns the take of an option that is stored, with a remark or "".
func taken(remark string, store func(*parser, value)) func(*parser, value) (Verdict, string) {
	return func(p *parser, v value) (Verdict, string) {
		store(p, v)
		return Taken, remark
	}
}

// bridged returns an option of a bridge.
func bridged(secret bool) option {
	return option{kind: rest, bridge: true, secret: secret, take: func(*parser, value) (Verdict, string) {
		return Ignored, "of the bridge"
	}}
}

// tls returns the TLS of the current listener, and notes that a line asks for it.
func (p *parser) tls() *TLS {
	d := p.perFile.cur
	if d.tlsLine == 0 {
		d.tlsLine, d.tlsFile = p.perFile.line, p.perFile.name
	}
	return &d.tls
}

const (
	stored   = "PostgreSQL keeps everything, at once"
	logged   = "Parley writes its log to standard error: see --log-level and --log-format"
	noEngine = "OpenSSL's engines are not supported; give the listener a keyfile in PEM"
	noPlugin = "Parley has no plugins. Remove the line, and see whether password_file, acl_file and Parley's accounts do what the plugin did"
	noPSK    = "pre-shared keys are not offered: Go's TLS has none. Give the listener a certificate"
	oldPort  = "the default listener; Mosquitto calls the option deprecated"
)

// options are those of Mosquitto 2.0 and 2.1, by name.
var options map[string]option

func init() { //nolint:gochecknoinits // the table refers to the parser, which refers to it
	options = map[string]option{
		// Where to listen.
		"listener": {kind: rest, take: takeListener},
		"port": {kind: number, min: 1, max: math.MaxUint16, take: taken(oldPort, func(p *parser, v value) {
			p.byDefault.port, p.byDefault.portSaid = v.number, true
		})},
		"bind_address": {kind: text, take: taken(oldPort, func(p *parser, v value) {
			p.byDefault.host, p.byDefault.portSaid = v.text, true
		})},
		"protocol": {kind: word, scope: ofListener, want: []string{"mqtt", "websockets"}, take: func(p *parser, v value) (Verdict, string) {
			if p.perFile.cur.WebSocket = v.text == "websockets"; p.perFile.cur.WebSocket {
				return Taken, `at any path, subprotocol "mqtt"`
			}
			return Taken, ""
		}},
		"socket_domain": {kind: word, scope: ofListener, want: []string{"ipv4", "ipv6"}, take: taken("", func(p *parser, v value) {
			p.perFile.cur.ipVersion = strings.TrimPrefix(v.text, "ipv")
		})},
		"bind_interface":  refused(text, "a listener cannot be bound to an interface; give it an address of that interface instead: listener PORT ADDRESS"),
		"mount_point":     refused(text, "a listener's topics cannot be put under a prefix, and without one its clients would share topics with all others"),
		"max_connections": {kind: number, scope: ofListener, take: taken("", func(p *parser, v value) { p.perFile.cur.MaxConnections = max(0, v.number) })},
		"http_dir":        ignored(text, "Parley serves no files"),
		"websockets_origin": {kind: word, scope: ofListener, take: taken("", func(p *parser, v value) {
			p.perFile.cur.Origins = append(p.perFile.cur.Origins, v.text)
		})},
		"websockets_log_level":          ignored(number, logged),
		"websockets_headers_size":       ignored(number, "headers may have 64 KiB"),
		"enable_proxy_protocol":         refused(number, "not supported for a listener: its headers would be malformed packets; see --proxy-protocol-from"),
		"proxy_protocol_v2_require_tls": refused(flag, "the PROXY protocol is not supported for a listener"),
		"accept_protocol_versions":      refused(text, "every listener accepts MQTT 5.0, 3.1.1 and 3.1"),
		"include_dir":                   {kind: text, take: func(p *parser, v value) (Verdict, string) { return p.include(v.text) }},

		// Encryption.
		"certfile": {kind: text, scope: ofListener, take: taken("", func(p *parser, v value) { p.tls().CertFile = v.text })},
		"keyfile":  {kind: text, scope: ofListener, take: taken("", func(p *parser, v value) { p.tls().KeyFile = v.text })},
		"cafile":   {kind: text, scope: ofListener, take: taken("", func(p *parser, v value) { p.tls().CAFile = v.text })},
		"capath":   {kind: text, scope: ofListener, take: taken("", func(p *parser, v value) { p.tls().CAPath = v.text })},
		"require_certificate": {kind: flag, scope: ofListener, take: taken("", func(p *parser, v value) {
			if p.perFile.cur.tls.RequireClient = v.flag; v.flag {
				p.tls()
			}
		})},
		"use_identity_as_username": {kind: flag, scope: ofListener, take: taken("", func(p *parser, v value) {
			if p.perFile.cur.NameFromCertificate = v.flag; v.flag {
				p.tls()
			}
		})},
		"use_subject_as_username": flagUnless(true, Refused, "the subject in OpenSSL's notation is not supported; use_identity_as_username takes its common name"),
		"tls_version": {kind: word, scope: ofListener, want: []string{"tlsv1.3", "tlsv1.2", "tlsv1.1"}, take: func(p *parser, v value) (Verdict, string) {
			p.tls().MinVersion = tls.VersionTLS12
			switch v.text {
			case "tlsv1.3":
				p.tls().MinVersion = tls.VersionTLS13
				return Taken, ""
			case "tlsv1.2":
				return Taken, "and 1.3"
			}
			return Changed, "1.2 is the oldest offered"
		}},
		"ciphers": {kind: text, scope: ofListener, take: func(p *parser, v value) (Verdict, string) {
			var suites []uint16
			for name := range strings.SplitSeq(v.text, ":") {
				id, ok := cipherSuites[name]
				if !ok {
					return Refused, fmt.Sprintf("%q is none of the suites offered. Remove the line for Go's choice, which is ECDHE with AES-GCM or ChaCha20-Poly1305 first, or name some of those", name)
				}
				suites = append(suites, id)
			}
			p.tls().CipherSuites = suites
			return Changed, "for TLS 1.2; Go chooses the order"
		}},
		"ciphers_tls1.3": {kind: text, scope: ofListener, take: func(p *parser, v value) (Verdict, string) {
			for _, name := range []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"} {
				if !strings.Contains(v.text, name) {
					return Refused, "the suites of TLS 1.3 cannot be chosen: all three are offered. Remove the line"
				}
			}
			p.tls()
			return Taken, ""
		}},
		"dhparamfile":           ignored(text, "keys are exchanged by elliptic curves only, which is not weaker"),
		"crlfile":               refused(text, "revocation lists are not read: a revoked certificate would be accepted. Use short-lived certificates, or remove those clients from the ACL file"),
		"tls_engine":            refused(text, noEngine),
		"tls_engine_kpass_sha1": {kind: text, secret: true, take: func(*parser, value) (Verdict, string) { return Refused, noEngine }},
		"tls_keyform": {kind: word, take: func(_ *parser, v value) (Verdict, string) {
			if v.text != "pem" {
				return Refused, noEngine
			}
			return Taken, ""
		}},
		"disable_client_cert_date_checks": flagUnless(true, Ignored, "expired client certificates are always refused"),
		"psk_file":                        refused(text, noPSK),
		"psk_hint":                        refused(text, noPSK),

		// Who may come in, and what for.
		"per_listener_settings": {kind: flag, take: func(p *parser, v value) (Verdict, string) {
			if v.flag && p.securitySet {
				return Refused, "must precede every option about access"
			}
			p.config.PerListener = v.flag
			return Taken, ""
		}},
		"password_file": {kind: text, scope: ofSecurity, take: func(p *parser, v value) (Verdict, string) {
			p.security().PasswordFile = v.text
			return Changed, "a client that is not in it, or has another password there, may log in to one of Parley's accounts"
		}},
		"acl_file": {kind: text, scope: ofSecurity, take: taken("for device topics; conv/ and user/ have Parley's rules", func(p *parser, v value) {
			p.security().ACLFile = v.text
		})},
		"allow_anonymous": {kind: flag, scope: ofSecurity, take: func(p *parser, v value) (Verdict, string) {
			p.security().anonymous = &v.flag
			if v.flag {
				return Taken, "for device topics; conversations need an account"
			}
			return Taken, ""
		}},
		"listener_allow_anonymous":   refused(flag, "use per_listener_settings true, and allow_anonymous for the listener"),
		"allow_zero_length_clientid": {kind: flag, scope: ofSecurity, take: taken("", func(p *parser, v value) { p.security().NoEmptyClientID = !v.flag })},
		"auto_id_prefix":             ignored(text, "assigned client ids are random, without a prefix"),
		"listener_auto_id_prefix":    ignored(text, "assigned client ids are random, without a prefix"),
		"use_username_as_clientid":   {kind: flag, scope: ofListener, take: taken("", func(p *parser, v value) { p.perFile.cur.NameIsClientID = v.flag })},
		"clientid_prefixes":          refused(text, "client ids are not restricted by a prefix; write an ACL pattern with %c"),
		"check_retain_source": flagUnless(true, Ignored,
			"a retained message stays when its publisher loses write access; delete it with an empty one"),
		"auth_plugin":                    refused(text, noPlugin),
		"plugin":                         refused(text, noPlugin),
		"global_plugin":                  refused(text, noPlugin),
		"plugin_load":                    refused(text, noPlugin),
		"plugin_use":                     refused(text, noPlugin),
		"auth_plugin_deny_special_chars": refused(flag, noPlugin),

		// How much.
		"max_packet_size": {kind: number, min: 20, max: chat.MaxPacketBytes, take: taken("", func(p *parser, v value) { p.config.MaxPacketSize = v.number })},
		"message_size_limit": {kind: number, max: chat.MaxPacketBytes - besides, take: func(p *parser, v value) (Verdict, string) {
			if v.number == 0 {
				return Ignored, "0 means no limit in Mosquitto; Parley's default limit applies: see max_packet_size"
			}
			p.config.MaxPacketSize = v.number + besides
			return Changed, "as max_packet_size, with 64 KiB for topic and properties"
		}},
		"max_inflight_messages": {kind: number, max: chat.MaxUnackedPublishes, take: func(p *parser, v value) (Verdict, string) {
			if v.number == 0 {
				return Ignored, "0 means no limit in Mosquitto; here 256 publishes of a client may wait for their acknowledgement"
			}
			p.config.MaxInflight = v.number
			return Changed, "as Receive Maximum, for what clients send; what they receive is bounded by theirs, at most 512"
		}},
		"persistent_client_expiration": {kind: word, take: takeExpiration},
		"max_inflight_bytes":           ignored(number, "the number of messages and the connection's buffer are bounded instead"),
		"max_queued_messages":          ignored(number, "Parley has its own limit for the queue of a device; conversations need none, their log is the queue"),
		"max_queued_bytes":             ignored(number, "as max_queued_messages"),
		"queue_qos0_messages":          ignored(flag, "when a queue is full, QoS 0 is dropped first"),
		"max_keepalive":                ignored(number, "a client's Keep Alive is accepted as it is"),
		"max_topic_alias":              ignored(number, "Parley has its own limit, which CONNACK announces"),
		"max_topic_alias_broker":       ignored(number, "Parley uses no aliases of its own"),
		"memory_limit":                 ignored(number, "every queue has its own limit; limit the process with its service manager (MemoryMax)"),
		"packet_buffer_size":           ignored(number, "buffers grow and shrink as needed"),
		"global_max_clients":           ignored(number, "see --max-connections"),
		"global_max_connections":       ignored(number, "see --max-connections"),
		"max_qos":                      maxQoS,
		"maximum_qos":                  maxQoS,
		"retain_available":             flagUnless(false, Ignored, "retained messages are always available"),
		"retain_expiry_interval":       ignored(word, "retained messages stay until they are deleted, or their own Message Expiry Interval has passed"),
		"set_tcp_nodelay":              flagUnless(false, Ignored, "TCP_NODELAY is always set"),
		"upgrade_outgoing_qos":         flagUnless(true, Ignored, "a publication is never sent with a higher QoS than it was published with [MQTT-3.8.4-8]"),
		"allow_duplicate_messages":     ignored(flag, "deprecated: overlapping subscriptions are handled by MQTT's rules"),
		"retry_interval":               ignored(rest, "removed from Mosquitto, too: nothing is sent again while a connection lasts"),
		"sys_interval":                 ignored(number, "$SYS is published every 10 s, while it has subscribers"),

		// What is stored, and where.
		"persistence":          flagUnless(false, Ignored, stored),
		"retained_persistence": flagUnless(false, Ignored, stored),
		"persistence_file":     ignored(text, stored),
		"persistence_location": ignored(text, stored+": see --data and --database. Mosquitto's file is not read"),
		"autosave_interval":    ignored(number, stored),
		"autosave_on_changes":  ignored(flag, stored),

		// The process.
		"user":                 ignored(text, "Parley does not change its user: start it as the right one (User= in systemd)"),
		"pid_file":             ignored(text, "service managers do not need one"),
		"log_dest":             ignored(rest, logged),
		"log_facility":         ignored(rest, logged),
		"log_type":             ignored(rest, logged),
		"log_timestamp":        ignored(rest, logged),
		"log_timestamp_format": ignored(rest, logged),
		"connection_messages":  ignored(flag, logged),
		"enable_control_api":   ignored(flag, "there is no $CONTROL; accounts are managed with parley user"),
		"http_api":             ignored(rest, "there is none; see /metrics"),

		// Bridges.
		"connection": {kind: word, take: func(p *parser, v value) (Verdict, string) {
			p.bridge = true
			return Ignored, "Parley accepts bridges but opens none: configure it in the other Mosquitto (docs/mosquitto.md)"
		}},
	}
	for _, name := range []string{
		"address", "addresses", "cleansession", "clientid", "remote_clientid", "idle_timeout", "keepalive_interval", "local_cleansession", "local_clientid",
		"local_username", "notification_topic", "notifications", "notifications_local_only", "username", "remote_username", "restart_timeout", "round_robin",
		"start_type", "threshold", "topic", "try_private", "bridge_alpn", "bridge_attempt_unsubscribe", "bridge_bind_address", "bridge_cafile", "bridge_capath",
		"bridge_certfile", "bridge_ciphers", "bridge_ciphers_tls1.3", "bridge_insecure", "bridge_keyfile", "bridge_max_packet_size", "bridge_max_topic_alias",
		"bridge_outgoing_retain", "bridge_protocol_version", "bridge_receive_maximum", "bridge_reload_type", "bridge_require_ocsp", "bridge_session_expiry_interval",
		"bridge_tcp_keepalive", "bridge_tcp_user_timeout", "bridge_tls_use_os_certs", "bridge_tls_version",
	} {
		options[name] = bridged(false)
	}
	for _, name := range []string{"password", "remote_password", "local_password", "bridge_psk", "bridge_identity"} {
		options[name] = bridged(true)
	}
}

// optionByPrefix returns an option of a plugin, which may have any name after the prefix.
func optionByPrefix(name string) (option, bool) {
	if strings.HasPrefix(name, "auth_opt_") || strings.HasPrefix(name, "plugin_opt_") {
		return option{kind: rest, secret: true, take: func(*parser, value) (Verdict, string) { return Refused, noPlugin }}, true
	}
	return option{}, false
}

// takeListener begins a listener: a port and an address, or 0 and the path of a unix
// socket.
func takeListener(p *parser, v value) (Verdict, string) {
	words := strings.Fields(v.text)
	for i, w := range words {
		if w[0] == '#' {
			words = words[:i]
			break
		}
	}
	if len(words) == 0 {
		return Refused, "has no value: want a port, and perhaps an address"
	}
	port, err := strconv.Atoi(words[0])
	d := &draft{Listener: Listener{Line: p.perFile.line, Security: &Security{}}, port: port}
	p.perFile.cur = d
	p.listeners = append(p.listeners, d)
	switch {
	case err != nil || port < 0 || port > math.MaxUint16:
		return Refused, fmt.Sprintf("port is %q: want 1 to 65,535, or 0 and the path of a unix socket", words[0])
	case len(words) > 2:
		return Refused, fmt.Sprintf("%q follows port and address", strings.Join(words[2:], " "))
	case port == 0 && len(words) == 1:
		return Refused, "port 0 needs the path of a unix socket"
	case port == 0:
		d.Network, d.Address = "unix", words[1]
		return Taken, "a unix socket"
	case len(words) == 2:
		d.host = words[1]
	}
	return Taken, ""
}

// besides is what a packet has beside its payload, at most: topic and properties.
const besides = 64 << 10

var maxQoS = option{kind: number, scope: ofListener, max: 2, take: func(_ *parser, v value) (Verdict, string) {
	if v.number < 2 {
		return Ignored, "all three are offered"
	}
	return Taken, ""
}}

// takeExpiration reads a number and a unit: hours, days, weeks, months (of 30 days)
// or years (of 365).
func takeExpiration(p *parser, v value) (Verdict, string) {
	units := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour, 'm': 30 * 24 * time.Hour, 'y': 365 * 24 * time.Hour}
	unit := units[v.text[len(v.text)-1]]
	n, err := strconv.Atoi(v.text[:len(v.text)-1])
	if unit == 0 || err != nil || n < 1 || n > 1000 {
		return Refused, fmt.Sprintf("is %q: want a number of 1 to 1,000 and h, d, w, m or y", v.text)
	}
	if most := math.MaxUint32 * time.Second / unit; time.Duration(n) > most { // MQTT 5.0, 3.1.2.11.2
		return Refused, fmt.Sprintf("is %q: want at most %d%s", v.text, most, v.text[len(v.text)-1:])
	}
	p.config.SessionExpiry = time.Duration(n) * unit
	return Changed, "for every session, also where an MQTT 5 client asks for longer"
}
