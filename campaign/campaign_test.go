package campaign_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/parleymq/parley/campaign"
	"github.com/parleymq/parley/pgchild"
)

// A short campaign against the server as it is, both built with the race detector.
// To run one again: PARLEY_CAMPAIGN_SEED=… go test ./campaign; for longer ones there
// is make campaign.
func TestShortCampaign(t *testing.T) {
	if testing.Short() {
		t.Skip("takes about a minute")
	}
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the children of a killed campaign would stay")
	}
	dir, err := os.MkdirTemp("", "campaign-") // the socket wants a short path, PostgreSQL's account one that it can reach
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	switch _, err := pgchild.New(pgchild.Options{Dir: dir}); {
	case errors.Is(err, pgchild.ErrNotInstalled) && os.Getenv("CI") == "":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	seed := rand.Uint64()
	if s := os.Getenv("PARLEY_CAMPAIGN_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	length := 30 * time.Second
	if s := os.Getenv("PARLEY_CAMPAIGN_FOR"); s != "" {
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	server, err := campaign.BuildServer(t.Context(), dir, true)
	if err != nil {
		t.Fatal(err)
	}
	r, err := campaign.Run(t.Context(), campaign.Options{
		Server: server, Dir: dir, Seed: seed, For: length, Round: 7 * time.Second, MaxRSS: 600 << 20, Out: t.Output(),
	})
	t.Logf("seed %d\n%s", seed, r)
	if err != nil {
		t.Error(err)
	}
	for _, v := range r.Violations {
		t.Error(v)
	}
	if log, err := os.ReadFile(r.ServerLog); err == nil && t.Failed() {
		t.Logf("the server's last words:\n%s", log[max(0, len(log)-8000):])
	}
}
