package pgchild

import "slices"

// tuning is for a server that shares its machine with us and writes small rows in batches. What is not
// named here or in fixed can be changed in data/postgresql.conf.
var tuning = []string{
	"fsync=on",
	"synchronous_commit=on",
	"full_page_writes=on",

	"shared_buffers=256MB",
	"max_wal_size=2GB",
	"checkpoint_timeout=15min", // what is written for the first time after a checkpoint logs its whole pages: a message three times as much
	"wal_compression=on",
	"wal_level=replica",
	"random_page_cost=1.1",
	"jit=off", // our statements are short; compiling them costs more than it gains

	// Errors are the caller's to log. Here neither statements nor the values in DETAIL may appear.
	"log_min_messages=warning",
	"log_min_error_statement=panic",
	"log_error_verbosity=terse",
	"log_checkpoints=off",
	"log_line_prefix=%m [%p] ",
}

// fixed is how we connect and find our way; not to be overridden.
var fixed = []string{
	"listen_addresses=",
	"port=" + port,
	"unix_socket_permissions=0700",
	"cluster_name=parley",
	"logging_collector=off",
	"log_destination=stderr",
	"lc_messages=C", // we read some of them
	"timezone=UTC",
	"log_timezone=UTC",
}

// serverArgs are the arguments of postgres. The last of equal settings wins.
func serverArgs(o Options, data, run string) []string {
	args := []string{"-D", data}
	for _, s := range slices.Concat(tuning, o.Settings, fixed, []string{"unix_socket_directories=" + run}) {
		args = append(args, "-c", s)
	}
	return args
}
