package app_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/app/apptest"
	"github.com/parleymq/parley/broker/brokertest"
)

// Paths that name nothing are answered as such, with the headers that every answer has. net/http's
// own routing redirected some of them, escaped twice, before anybody could say so.
func TestOddPaths(t *testing.T) {
	t.Parallel()
	a := apptest.Start(t)
	u := a.User(t, "u")
	for _, path := range []string{
		"//", "//api/users/me", "/api//users/me", "/api/users/me/", "/./api/users/me", "/api/./users/me", "/api/x/../users/me", "/../api/users/me",
		"/api/users/%2e/me", "/api/users%2Fme", "//api/messages/%2525", "/%2Fapi/users/me", "/mqtt/", "//mqtt", "/x/../mqtt", "/./mqtt", "/metrics//",
	} {
		conn, err := net.Dial("tcp", a.HTTPAddr())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(brokertest.Patience))
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", path, a.HTTPAddr(), u.Token); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = conn.Close()
		h := resp.Header
		if resp.StatusCode != http.StatusNotFound || h.Get("Content-Type") != "application/problem+json" || !strings.Contains(string(body), `"not_found"`) ||
			h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") == "" || h.Get("Location") != "" {
			t.Errorf("GET %s: %s %v %s", path, resp.Status, h, body)
		}
	}
}
