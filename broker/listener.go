package broker

import (
	"crypto/tls"
	"encoding/asn1"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/parleymq/parley/chat"
)

// Listener says how the connections of one listener are accepted, and by what rules
// their clients are. The zero value accepts any, by the server's own rules. It is
// shared by all its connections, and must not be changed while it serves.
type Listener struct {
	Name           string                   // for the log, such as "mqtts :8883"
	TLS            *tls.Config              // nil: the connections are not encrypted, or not by this server
	MaxConnections int                      // open at once; 0: no limit but Limits.MaxConnections
	AllowOrigin    func(*http.Request) bool // over WebSocket: instead of Options.AllowOrigin; nil: that

	Authenticator       chat.Authenticator // nil: the hook's own. It may also be a chat.GuestBook
	Topics              chat.TopicAccess   // who may use which device topics; nil: the process's rule
	NameFromCertificate bool               // the common name of the client's certificate is its user name, and its password is not asked for
	NameIsClientID      bool               // the client id is the user name, whatever CONNECT says
	NoEmptyClientID     bool               // a client that has no client id is refused

	open int // Server.mu guards: connections now
}

// Listener returns the listener that has accepted the connection.
func (c *Conn) Listener() *Listener { return c.listener }

// CertificateName returns the common name of the client's verified certificate; false
// if there is none, or none that could be a user name (MQTT 5.0, 1.5.4).
func (c *Conn) CertificateName() (string, bool) {
	t := c.tls()
	if t == nil {
		return "", false
	}
	state := t.ConnectionState()
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return "", false
	}
	for _, n := range state.PeerCertificates[0].Subject.Names {
		if n.Type.Equal(commonName) { // the first of several, as OpenSSL finds it
			name, ok := n.Value.(string)
			return name, ok && name != "" && utf8.ValidString(name) && !strings.ContainsRune(name, 0)
		}
	}
	return "", false
}

var commonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// tls returns the connection's TLS, or nil.
func (c *Conn) tls() *tls.Conn {
	inner := c.socket
	if ws, ok := inner.(*wsConn); ok {
		inner = ws.Conn
	}
	t, _ := inner.(*tls.Conn)
	return t
}
