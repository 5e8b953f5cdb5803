package pgchild

import (
	"maps"
	"slices"
	"strconv"
)

// tuning is for a server that shares its machine with us and writes small rows in batches. What is not
// named here or in fixed can be changed in data/postgresql.conf.
var tuning = [][2]string{
	{"shared_buffers", "256MB"},
	{"max_wal_size", "2GB"},
	{"wal_compression", "on"},
	{"wal_level", "replica"},
	{"random_page_cost", "1.1"},
	{"jit", "off"}, // our statements are short; compiling them costs more than it gains

	// Errors are the caller's to log. Here neither statements nor the values in DETAIL may appear.
	{"log_min_messages", "warning"},
	{"log_min_error_statement", "panic"},
	{"log_error_verbosity", "terse"},
	{"log_checkpoints", "off"},
	{"log_line_prefix", "%m [%p] "},
}

// fixed is how we connect and find our way; not to be overridden.
var fixed = [][2]string{
	{"listen_addresses", ""},
	{"port", port},
	{"unix_socket_permissions", "0700"},
	{"cluster_name", "parley"},
	{"logging_collector", "off"},
	{"log_destination", "stderr"},
	{"lc_messages", "C"}, // we read some of them
	{"timezone", "UTC"},
	{"log_timezone", "UTC"},
}

var durable = [][2]string{
	{"fsync", "on"},
	{"synchronous_commit", "on"},
	{"full_page_writes", "on"},
}

var ephemeral = [][2]string{
	{"shared_buffers", "64MB"},
	{"fsync", "off"},
	{"synchronous_commit", "off"},
	{"full_page_writes", "off"},
}

// serverArgs are the arguments of postgres. The last of equal settings wins.
func serverArgs(o Options, data, run string) []string {
	args := []string{"-D", data}
	set := func(name, value string) { args = append(args, "-c", name+"="+value) }
	for _, kv := range tuning {
		set(kv[0], kv[1])
	}
	set("max_connections", strconv.Itoa(o.MaxConnections))
	last := fixed
	if o.Ephemeral {
		for _, kv := range ephemeral {
			set(kv[0], kv[1])
		}
	} else {
		last = slices.Concat(fixed, durable)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Settings)) {
		set(name, o.Settings[name])
	}
	for _, kv := range last {
		set(kv[0], kv[1])
	}
	set("unix_socket_directories", run)
	return args
}
