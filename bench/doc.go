// Package bench makes load and measures what a server does under it: any server that keeps docs/contract.md,
// since the contract is all that the package shares with Parley. "parley bench" and the benchmarks of package
// app are both built on it.
//
// Clients are MQTT 5 connections that cost next to nothing, so that what is measured on a machine shared with
// the server is the server. They speak just enough of the protocol to publish at QoS 1, and to receive and
// acknowledge. Each connection has one goroutine, which owns all of it but the counters of its load.
//
//	load.go       Run: conversations, at full speed or at a given rate
//	fleet.go      Idle and Reconnect: many connections
//	presence.go   Presence: everybody comes online at once
//	requests.go   Repeat: anything else that is done again and again, such as a REST request
//	check.go      what was lost, came twice or came out of order
//	people.go     users and conversations, made over REST
//	process.go, postgres.go, limits.go   what processes use, what PostgreSQL writes, what the machine can do
//	report.go     the results as a file, and two of them compared; table.go and page.go show them
//
// Every Run checks what it receives: a message that is lost, comes twice or comes out of order is an error
// (Faults), however fast it was.
//
// Latency is counted from when a message was due. At full speed that is when it is sent. At a given rate it is
// when the schedule says, even if the client could not send by then because the server was slow: the time in
// which nothing was sent would otherwise be missing from the result ("coordinated omission").
package bench
