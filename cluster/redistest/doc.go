// Package redistest runs real Redis servers for tests: one, one with TLS, a Cluster, a
// master with replica and Sentinels. They listen on loopback, keep what they keep in the
// test's directory, and end with the test, or with the process, whichever way that ends.
// For tests only. Where redis-server is not installed tests skip, and fail when CI is set.
package redistest
