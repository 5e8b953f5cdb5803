package apptest

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/asyncapi"
	"github.com/parleymq/parley/asyncapi/asyncapitest"
	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/rest/openapitest"
)

var contract = sync.OnceValues(func() (*asyncapitest.Checker, error) {
	return asyncapitest.New(asyncapi.JSON("test"))
})

// checked makes the client compare every payload that passes through it with the
// AsyncAPI document: what it receives, and what it sends and the server takes. A
// benchmark measures without.
func checked(t testing.TB, c *brokertest.Client) *brokertest.Client {
	t.Helper()
	if _, bench := t.(*testing.B); bench {
		return c
	}
	check, err := contract()
	if err != nil {
		t.Fatal("apptest: the AsyncAPI document:", err)
	}
	c.Check = func(received bool, pk packets.Packet) error {
		if !strings.HasPrefix(pk.TopicName, "conv/") && !strings.HasPrefix(pk.TopicName, "user/") {
			return nil
		}
		action := asyncapi.Publish
		if received {
			action = asyncapi.Receive
		}
		return check.Check(action, pk.TopicName, pk.Properties.ContentType, pk.Payload)
	}
	return c
}

// check compares an answer, and the request if it was successful, with the OpenAPI
// document that the server serves.
func (a *App) check(t testing.TB, req *http.Request, r *Response) {
	t.Helper()
	if _, bench := t.(*testing.B); bench || req.Method == http.MethodHead || req.Method == http.MethodOptions {
		return
	}
	a.document.Do(func() {
		resp, err := httpClient.Get("http://" + a.HTTPAddr() + "/openapi.json")
		if err != nil {
			t.Fatal("apptest:", err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal("apptest:", err)
		}
		if a.documentedBy, err = openapitest.New(text); err != nil {
			t.Fatal("apptest: the OpenAPI document:", err)
		}
	})
	if a.documentedBy == nil {
		return // another goroutine's test has failed for it
	}
	var sent []byte
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			t.Fatal("apptest:", err)
		}
		if sent, err = io.ReadAll(body); err != nil {
			t.Fatal("apptest:", err)
		}
	}
	sent = chat.TrimByteOrderMark(sent) // which the document cannot speak of
	if err := a.documentedBy.Check(req.Method, req.URL.String(), sent, r.Status, r.Header.Get("Content-Type"), r.Body); err != nil {
		t.Error("apptest:", err)
	}
}
