// Package redis is the link between nodes by way of Redis (or Valkey): one server,
// Sentinel, or Cluster with sharded pub/sub. What it keeps there may be lost at any
// moment, and is put there again.
//
//	{prefix}nodes         sorted set of "id|name" by the end of the lease, in Redis' own time (ms)
//	{prefix}user:{uuid}   sorted set of node ids by the end of the entry (ms); gone 30 min after its last renewal
//	{prefix}node:{id}     channel of one node: sharded in a Cluster, plain elsewhere
//
// The braces around uuid and id are in the names: in a Cluster they alone decide the
// slot. Redis is never asked to keep anything that the database does not know.
//
// Four loops share the link, all owned by Link.Run:
//
//   - the heart (heart.go) renews the lease, hears who else is there, and decides whether
//     Redis is away. After a failure it goes on with a new client, so that no stale
//     connection, address or topology outlives one.
//   - the receiver (receive.go) has a subscription on a client of its own, and believes in
//     it only while messages that this node sends to itself come back: a subscription to a
//     server that nobody publishes on any more looks healthy in every other respect.
//   - the sender (send.go) takes what has gathered for each peer, one PUBLISH a peer and one
//     round trip for all, and gathers the next while that is under way.
//   - the registrar (registry.go) makes the registry say who is here.
package redis
