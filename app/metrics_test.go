package app_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/app/apptest"
)

// Metrics tell strangers nothing: on the HTTP address, which a proxy on the same machine
// makes public, they are not served, to whomever and with whatever header.
func TestMetricsAtTheAdminAddressOnly(t *testing.T) {
	t.Parallel()
	for _, admin := range []string{"127.0.0.1:0", ""} {
		a := apptest.Start(t, func(o *app.Options) { o.AdminAddr = admin })
		for _, path := range []string{"/metrics", "/debug/pprof/"} {
			if r := a.REST(t, apptest.User{}, http.MethodGet, path, nil); r.Status != http.StatusNotFound || bytes.Contains(r.Body, []byte("parley_")) {
				t.Errorf("admin address %q: GET %s: %s", admin, path, r)
			}
		}
		if admin != "" && !strings.Contains(a.Metrics(t), "\nparley_mqtt_connections 0\n") {
			t.Error("the admin address has no metrics of ours")
		}
	}
}
