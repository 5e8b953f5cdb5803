package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Sentinels watch over a master and its replica.
type Sentinels struct {
	Master, Replica *Server // as they began
	Watch           []*Server
}

// StartSentinels runs a master, a replica and three Sentinels until the test ends. The
// master is called "main"; it is failed over when it has not answered for a second.
func StartSentinels(t testing.TB) *Sentinels {
	t.Helper()
	s := &Sentinels{Master: Start(t, "--repl-diskless-sync-delay", "0")}
	s.Replica = Start(t, "--repl-diskless-sync-delay", "0", "--replicaof", "127.0.0.1 "+strconv.Itoa(s.Master.Port))
	Await(t, "the replica follows", func() bool {
		return strings.Contains(s.Replica.Do("INFO", "replication").(string), "master_link_status:up")
	})
	for range 3 {
		w := newServer(t, "redis-server", nil)
		conf := filepath.Join(w.dir, "sentinel.conf")
		text := fmt.Sprintf("port %d\nsentinel monitor main 127.0.0.1 %d 2\nsentinel down-after-milliseconds main 1000\nsentinel failover-timeout main 3000\n", w.Port, s.Master.Port)
		if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.args = []string{conf, "--sentinel"}
		w.start()
		s.Watch = append(s.Watch, w)
	}
	for _, w := range s.Watch {
		Await(t, "the Sentinels know each other and the replica", func() bool {
			info := w.Do("INFO", "sentinel").(string)
			return strings.Contains(info, "slaves=1,sentinels=3")
		})
	}
	return s
}

// URL asks the Sentinels for the master.
func (s *Sentinels) URL() string {
	addrs := make([]string, len(s.Watch))
	for i, w := range s.Watch {
		addrs[i] = w.Addr()
	}
	return "redis+sentinel://" + strings.Join(addrs, ",") + "/main"
}
