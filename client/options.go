package client

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Options says where the server is, who connects, and what is received. Needed are
// URL, and one of Username with Password, RefreshToken and Token.
type Options struct {
	// URL is where REST is, such as https://chat.example.com or http://localhost:8080.
	URL string
	// MQTTURL is where MQTT is: mqtt://host:1883, mqtts://host:8883, ws://host/mqtt or
	// wss://host/mqtt. Empty: WebSocket beside URL, at /mqtt.
	MQTTURL string
	// TLS is for https, mqtts and wss. nil: the system's certificates.
	TLS *tls.Config

	// Username (or an email address) and Password log in when the client needs tokens,
	// which Close revokes. They are kept in memory, and used again if the tokens are
	// refused.
	Username, Password string
	// RefreshToken continues an earlier login. It can be used once, so OnTokens must
	// store its successor.
	RefreshToken string
	// OnTokens is called with each new pair of tokens, before they are used. If it is
	// set, Close does not end the login. It must not block, nor call the client.
	OnTokens func(Tokens)
	// Token returns an access token, such as one from the program's own issuer. It is
	// called for each connection, and for REST when the last one has expired or is refused.
	Token func(ctx context.Context) (string, error)

	// ClientID names the device. The server keeps its session: its position in every
	// conversation, so that it receives what it missed while it was disconnected. Two
	// programs with the same ClientID and user take over each other's session. At most
	// 256 bytes. Empty: a generated one, whose session ends with Close, or after an hour
	// without a connection.
	ClientID string
	// SessionExpiry is how long the session is kept without a connection: at least a
	// second, in whole seconds. 0: 7 days; the server's own limit is 90 days.
	SessionExpiry time.Duration
	// CleanStart discards the kept session: events are received from now on.
	CleanStart bool
	// KeepAlive is the MQTT keep alive: a dead connection is noticed within twice that. At
	// least a second; 0: 30 s.
	KeepAlive time.Duration
	// MaxBackoff is the longest pause between attempts to connect, or to send after a
	// temporary refusal. 0: 30 s. Pauses grow from 250 ms; up to half of each is random.
	MaxBackoff time.Duration

	// OnEvent handles an event of a conversation. Events come one at a time, of each
	// conversation in order; the next one waits until it returns, and so does the
	// server, 256 events later. After nil the event is acknowledged; after an error
	// the same event comes again, after a pause that grows to MaxBackoff, for as
	// long as it takes: return nil for what cannot be handled at all. A panic is not
	// caught: the program ends, and gets the event again when it is back.
	//
	// It may be called before Dial returns. It may call the client, except for Close.
	// Its context ends when the client does. nil: events are not subscribed to.
	OnEvent func(ctx context.Context, e *Event) error
	// Positions keeps which events have been handled. nil: in memory alone.
	Positions Positions

	// The signals. Each is subscribed to if its function is set. These functions are called
	// one at a time, concurrently with OnEvent, and should return soon: meanwhile only the
	// latest state of each thing is kept.
	OnTyping    func(Typing)
	OnRead      func(Read)
	OnDelivered func(Delivered)
	OnPresence  func(Presence)
	// OnRefused is called with the reason if a signal that the client sent (Typing) was refused.
	OnRefused func(*Error)
	// OnConnect is called when a connection is up, OnDisconnect when it is lost, with the
	// reason. They are called like signals: of quick changes only the latest is reported.
	OnConnect    func(Connection)
	OnDisconnect func(error)

	// HTTPClient makes the REST requests. nil: the client makes its own.
	HTTPClient *http.Client
	// Logger logs connections made and lost, and handlers that fail. nil: nothing is logged.
	Logger *slog.Logger
}

// Connection says what kind of connection is up.
type Connection struct {
	// SessionPresent: the server has kept the session, and sends everything missed. If
	// not, events are received from now on; earlier ones can be read with Sync or
	// History.
	SessionPresent bool
	// Reconnect: it is not this client's first connection.
	Reconnect bool
}

// Position is how far a conversation's events have been handled. Seq counts within Epoch
// (see Event.Epoch): in another one it means nothing.
type Position struct {
	Epoch string
	Seq   int64
}

// Positions keeps the position of the last event that was handled, for each conversation,
// where the program keeps the rest of its state. It is called by one goroutine.
type Positions interface {
	// Load returns the position of the last event handled of a conversation, or the zero
	// one. It is called when the conversation's first event comes. The client ignores a
	// position of another epoch than the event's.
	Load(ctx context.Context, conversation ID) (Position, error)
	// Save is called when OnEvent has returned nil, before the event is acknowledged.
	// If OnEvent saves it itself, with the effects of the event in one transaction, then
	// each event has its effects once, and Save has nothing to do.
	Save(ctx context.Context, conversation ID, p Position) error
}

const (
	defaultExpiry     = 7 * 24 * time.Hour
	unnamedExpiry     = time.Hour
	defaultKeepAlive  = 30 * time.Second
	defaultMaxBackoff = 30 * time.Second
	maxClientIDBytes  = 256
)

func badOption(field, detail string) error {
	return &Error{Op: "options", Code: Invalid, Field: field, Detail: field + ": " + detail}
}

// setDefaults also reports the first thing that is wrong.
func (o *Options) setDefaults() error {
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return badOption("URL", "must be such as https://chat.example.com")
	}
	o.URL = strings.TrimRight(o.URL, "/")
	if (o.Username == "") != (o.Password == "") {
		return badOption("Username", "needs Password, and the other way round")
	}
	if o.Token != nil && (o.Username != "" || o.RefreshToken != "") {
		return badOption("Token", "cannot be used together with Username or RefreshToken")
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = defaultMaxBackoff
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// setConnectDefaults is setDefaults for what Dial needs beside.
func (o *Options) setConnectDefaults() error {
	if o.MQTTURL == "" {
		o.MQTTURL = "ws" + strings.TrimPrefix(o.URL, "http") + "/mqtt"
	}
	u, err := url.Parse(o.MQTTURL)
	switch {
	case err != nil || u.Host == "":
		return badOption("MQTTURL", "must be such as mqtt://chat.example.com:1883")
	case u.Scheme == "mqtt" && u.Port() == "":
		o.MQTTURL = "mqtt://" + u.Host + ":1883"
	case u.Scheme == "mqtts" && u.Port() == "":
		o.MQTTURL = "mqtts://" + u.Host + ":8883"
	case u.Scheme == "mqtt", u.Scheme == "mqtts", u.Scheme == "ws", u.Scheme == "wss":
	default:
		return badOption("MQTTURL", "must begin with mqtt://, mqtts://, ws:// or wss://")
	}
	if o.Token == nil && o.Username == "" && o.RefreshToken == "" {
		return badOption("Username", "is required with Password, or RefreshToken, or Token")
	}
	if len(o.ClientID) > maxClientIDBytes {
		return badOption("ClientID", "has more than 256 bytes")
	}
	if o.SessionExpiry != 0 && o.SessionExpiry < time.Second || o.SessionExpiry > math.MaxUint32*time.Second {
		return badOption("SessionExpiry", "must be a second at least, and fit into 32 bits of seconds")
	}
	if o.KeepAlive != 0 && o.KeepAlive < time.Second || o.KeepAlive > math.MaxUint16*time.Second {
		return badOption("KeepAlive", "must be 1 s to 65,535 s")
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = defaultKeepAlive
	}
	if o.SessionExpiry == 0 {
		o.SessionExpiry = defaultExpiry
		if o.ClientID == "" {
			o.SessionExpiry = unnamedExpiry
		}
	}
	return nil
}

// newID makes an id that the client sends: a UUIDv7.
func newID() ID { return ID(uuid.Must(uuid.NewV7()).String()) }
