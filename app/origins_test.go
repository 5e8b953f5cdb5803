package app_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
)

func TestParseOrigin(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{ // "" for an error
		"https://chat.example.com":      "https://chat.example.com",
		"HTTPS://Chat.Example.COM/":     "https://chat.example.com",
		"https://chat.example.com:443/": "https://chat.example.com",
		"http://chat.example.com:80":    "http://chat.example.com",
		"http://chat.example.com:443":   "http://chat.example.com:443",
		"http://localhost:5173":         "http://localhost:5173",
		"http://[::1]:5173":             "http://[::1]:5173",
		"capacitor://localhost":         "capacitor://localhost",
		"https://xn--bcher-kva.example": "https://xn--bcher-kva.example",
		"null":                          "null",
		"*":                             "*",

		"":                               "",
		"chat.example.com":               "",
		"localhost:5173":                 "",
		"https://":                       "",
		"https://:443":                   "",
		"https://chat.example.com:":      "",
		"https://chat.example.com:x":     "",
		"https://chat.example.com/app":   "",
		"https://chat.example.com//":     "",
		"https://chat.example.com?":      "",
		"https://chat.example.com#":      "",
		"https://ann@chat.example.com":   "",
		"https://*.example.com":          "",
		"https://bücher.example":         "",
		"https://chat.example.com, null": "",
		"https://chat example.com":       "",
		"//chat.example.com":             "",
		"mailto:ann@example.com":         "",
	} {
		got, err := app.ParseOrigin(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseOrigin(%q) = %q, %v, want %q", in, got, err, want)
		}
		if err != nil && !strings.Contains(err.Error(), "https://chat.example.com") {
			t.Errorf("ParseOrigin(%q): %v; want an example", in, err)
		}
	}
}

// Whatever ParseOrigin returns, it takes, and returns as it is.
func FuzzParseOrigin(f *testing.F) {
	for _, s := range []string{"https://chat.example.com", "HTTP://A:80/", "null", "*", "http://[::1]:1", "a://b:443", "https://a:443:443"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once, err := app.ParseOrigin(s)
		if err != nil {
			return
		}
		if twice, err := app.ParseOrigin(once); err != nil || twice != once {
			t.Errorf("ParseOrigin(%q) = %q, and of that %q, %v", s, once, twice, err)
		}
	})
}

// logLines is a handler that keeps what is logged.
type logLines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// A page at another origin calls REST and opens a WebSocket, from a browser whose tracing adds
// headers, through a proxy that writes the port into Host. The origins are in the settings as
// people write them, and never matched; who is refused leaves a line in the log, a few times.
func TestPagesOfOtherOrigins(t *testing.T) {
	t.Parallel()
	var log logLines
	a := apptest.Start(t, func(o *app.Options) {
		o.AllowedOrigins = []string{"HTTPS://Chat.Example.com/", "https://second.example.com:443", "null"}
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	for _, tt := range []struct {
		name, origin, host string
		ok                 bool
	}{
		{"as browsers write it", "https://chat.example.com", "", true},
		{"its own port is given in the settings", "https://second.example.com", "", true},
		{"a local file", "null", "", true},
		{"own host", "https://own.example.com", "own.example.com", true},
		{"own host with the port in Host", "https://own.example.com", "Own.example.com:443", true},
		{"own host with another port", "https://own.example.com", "own.example.com:8443", false},
		{"another port", "https://chat.example.com:8443", "", false},
		{"without TLS", "http://chat.example.com", "", false},
		{"as a prefix", "https://chat.example.com.evil.example", "", false},
		{"foreign", "https://evil.example.com", "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodOptions, "http://"+a.HTTPAddr()+"/api/messages", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = tt.host
			const asked = "authorization,baggage,content-type,traceparent"
			req.Header = http.Header{"Origin": {tt.origin}, "Access-Control-Request-Method": {"POST"}, "Access-Control-Request-Headers": {asked}}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			h := resp.Header
			switch {
			case tt.ok && (resp.StatusCode != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != tt.origin || h.Get("Access-Control-Allow-Headers") != asked):
				t.Errorf("preflight: %s %v", resp.Status, h)
			case tt.ok && strings.Join(h.Values("Vary"), ", ") != "Origin, Access-Control-Request-Headers":
				t.Errorf("Vary: %v", h.Values("Vary"))
			case !tt.ok && (resp.StatusCode != http.StatusMethodNotAllowed || h.Get("Access-Control-Allow-Origin") != ""):
				t.Errorf("preflight: %s %v", resp.Status, h)
			}

			d := websocket.Dialer{Subprotocols: []string{"mqtt"}}
			head := http.Header{"Origin": {tt.origin}}
			if tt.host != "" {
				head.Set("Host", tt.host)
			}
			ws, resp, err := d.Dial(a.WebSocketURL(), head)
			switch {
			case tt.ok && err != nil:
				t.Errorf("WebSocket: %v", err)
			case !tt.ok && (resp == nil || resp.StatusCode != http.StatusForbidden):
				t.Errorf("WebSocket: %v, want 403", err)
			}
			if err == nil {
				_ = ws.Close()
			}
		})
	}
	for range 20 {
		a.Do(t, apptest.User{}, requestFrom(t, a, "https://evil.example.com"))
	}
	if n := strings.Count(log.String(), "a page of another origin was refused"); n != 10 || !strings.Contains(log.String(), "origin=https://evil.example.com host=") {
		t.Errorf("%d lines of 29 refused requests, want 10:\n%s", n, log.String())
	}
}

func requestFrom(t *testing.T, a *apptest.App, origin string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.HTTPAddr()+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Origin", origin)
	return req
}

// A setting that is no origin would never match, so nothing starts with it.
func TestNoOrigin(t *testing.T) {
	t.Parallel()
	for _, o := range []app.Options{
		{AllowedOrigins: []string{"https://ok.example.com", "chat.example.com"}},
		{MQTTAddr: app.NoMQTT, HTTPAddr: "127.0.0.1:0", Listeners: []app.Listener{{Address: "127.0.0.1:0", WebSocket: true, AllowedOrigins: []string{"chat.example.com"}}}},
	} {
		o.Logger = slog.New(slog.DiscardHandler)
		if err := app.New(o).Start(context.Background()); err == nil || !strings.Contains(err.Error(), "allowed origins") || !strings.Contains(err.Error(), `"chat.example.com"`) {
			t.Errorf("Start = %v, want that it names the setting and what is wrong", err)
		}
	}
}
