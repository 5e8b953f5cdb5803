// Package redis is a cluster.Link by way of Redis (or Valkey): one server, Sentinel, or
// Cluster with sharded pub/sub. What it keeps there may be lost at any moment, and is put
// there again. Which nodes there are it learns from the database (SetPeers); Redis only
// says whether they can be reached.
//
//	{prefix}user:{uuid}   sorted set of node ids by the end of the entry (ms); gone 30 min after its last renewal
//	{prefix}node:{id}     channel of one node: sharded in a Cluster, plain elsewhere
//	{prefix}nodes         sorted set of "id|name" by the end of a lease, in Redis' own time (ms); shows whether Redis
//	                      was emptied, and is how nodes of the release before find this one
//
// The braces around uuid and id are in the names: in a Cluster they alone decide the
// slot.
//
// Link.Run owns four goroutines:
//
//   - heartbeat (heartbeat.go) renews the lease and decides whether Redis is available.
//     After a failure it goes on with a new client, so that no stale connection, address or
//     topology outlives one.
//   - subscribe (receive.go) has a subscription on a client of its own, and trusts it only
//     while messages that this node sends to itself come back: a subscription to a server
//     that nobody publishes on any more looks healthy in every other respect.
//   - send (send.go) takes what has gathered for each peer, one PUBLISH a peer and one round
//     trip for all, and gathers the next while that is under way.
//   - register (registry.go) makes the registry say who is connected here.
//
// Locks: peer.mu, registry.mu and probes.mu guard memory only; none is taken under another.
package redis
