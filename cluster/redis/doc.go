// Package redis is a cluster.Link by way of Redis (or Valkey): one server, Sentinel, or
// Cluster with sharded pub/sub. What it keeps there may be lost at any moment, and is
// written again. Which nodes there are it learns from the database (SetPeers); Redis only
// decides whether they can be reached.
//
//	parley:INSTALLATION:user:{uuid}   sorted set of node ids by the time at which the entry expires (ms); deleted 30 min after its last renewal
//	parley:INSTALLATION:node:{id}     channel of one node: sharded in a Cluster, plain elsewhere
//	parley:INSTALLATION:nodes         sorted set of "id|name" by the time at which the lease expires (ms); shows whether Redis lost
//	                                  its data, and whether nodes of another database use the same name
//
// INSTALLATION is Options.Installation. Times are those of Redis. The braces around uuid and id are in the names: in a Cluster
// they alone decide the slot.
//
// Link.Run owns four goroutines:
//
//   - heartbeat (heartbeat.go) renews the lease and decides whether Redis is available.
//     After a failure it goes on with a new client, so that no stale connection, address or
//     topology outlives one.
//   - subscribe (receive.go) has a subscription with a client of its own, and trusts it only
//     while messages that this node sends to itself come back: a subscription to a server
//     that nobody publishes at any more looks healthy in every other respect.
//   - send (send.go) takes the frames that wait for each peer, one PUBLISH a peer and one
//     round trip for all, and the next gather while that is under way.
//   - register (registry.go) writes to the registry who is connected here.
//
// Locks: peers.mu and registry.mu guard memory only; neither is taken under the other.
package redis
