package campaign_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/parleymq/parley/campaign"
	"github.com/parleymq/parley/pgchild"
	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/seedtest"
)

// A short campaign against the server as it is, both built with the race detector.
// To run one again: PARLEY_TEST_SEED=… go test ./campaign; for longer ones there
// is make campaign.
func TestShortCampaign(t *testing.T) {
	runShort(t, campaign.Options{Round: 7 * time.Second})
}

// The same against three nodes on one database, with Redis between them. A Cluster is
// for longer ones: make campaign ARGS='-nodes=3 -redis=cluster'.
func TestShortCampaignOfNodes(t *testing.T) {
	programtest.Path(t, "redis-server")
	runShort(t, campaign.Options{Round: 9 * time.Second, Nodes: 3, Redis: campaign.RedisSingle})
}

func runShort(t *testing.T, o campaign.Options) {
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
	case errors.Is(err, pgchild.ErrNotInstalled):
		programtest.Missing(t, "postgresql", err.Error())
	case err != nil:
		t.Fatal(err)
	}
	o.Seed, o.For = seedtest.Seed(t), 30*time.Second
	if s := os.Getenv("PARLEY_CAMPAIGN_FOR"); s != "" {
		if o.For, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	if o.Server, err = campaign.BuildServer(t.Context(), dir, true); err != nil {
		t.Fatal(err)
	}
	o.Only = os.Getenv("PARLEY_CAMPAIGN_ONLY")
	o.Dir, o.MaxRSS, o.Out = dir, 600<<20, t.Output()
	r, err := campaign.Run(t.Context(), o)
	if err != nil {
		t.Error(err)
	}
	if r == nil {
		return
	}
	t.Logf("seed %d\n%s", o.Seed, r)
	for _, v := range r.Violations {
		t.Error(v)
	}
	for _, name := range r.ServerLogs {
		if log, err := os.ReadFile(name); err == nil && t.Failed() {
			t.Logf("the last words of %s:\n%s", filepath.Base(name), log[max(0, len(log)-8000):])
		}
	}
}
