// Command campaign runs a campaign against the server of this checkout, for as long
// as it is told to:
//
//	go run ./campaign/cmd -for 20m -clients 60
//
// It ends with 0 if no promise was broken. The directory with the server's log and
// the database is kept if one was.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/parleymq/parley/campaign"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "campaign:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func run(ctx context.Context) error {
	var o campaign.Options
	flag.Uint64Var(&o.Seed, "seed", rand.Uint64(), "what everything random comes from")
	flag.DurationVar(&o.For, "for", 5*time.Minute, "how long rounds are begun")
	flag.DurationVar(&o.Round, "round", 12*time.Second, "of load and faults, before each checkpoint")
	flag.IntVar(&o.Clients, "clients", 30, "devices")
	flag.StringVar(&o.Server, "server", "", "the parley binary; none: it is built from this checkout")
	flag.IntVar(&o.Nodes, "nodes", 1, "servers on the database; more than one need Redis")
	flag.StringVar(&o.Redis, "redis", "", "between the nodes: single or cluster, of redis-server from the PATH; none: single, if there are several nodes")
	flag.StringVar(&o.Only, "only", "", "only blows whose names hold this")
	race := flag.Bool("race", false, "build it with the race detector")
	maxRSS := flag.Int64("max-rss", 600, "MiB of memory that the server may take; 0: any")
	flag.Parse()
	o.MaxRSS, o.Out = *maxRSS<<20, os.Stdout
	if o.Nodes > 1 && o.Redis == "" {
		o.Redis = campaign.RedisSingle
	}
	var err error
	if o.Dir, err = os.MkdirTemp("", "campaign-"); err != nil {
		return err
	}
	if err := os.Chmod(o.Dir, 0o755); err != nil { // PostgreSQL may run under an account of its own
		return err
	}
	if o.Server == "" {
		if o.Server, err = campaign.BuildServer(ctx, o.Dir, *race); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stdout, "campaign: seed %d, in %s\n", o.Seed, o.Dir)
	r, err := campaign.Run(ctx, o)
	fmt.Fprintf(os.Stdout, "\n%s", r)
	switch {
	case err != nil:
		return err
	case len(r.Violations) > 0:
		return fmt.Errorf("%d violations; see %s, and run it again with -seed %d", len(r.Violations), o.Dir, o.Seed)
	}
	return os.RemoveAll(o.Dir)
}
