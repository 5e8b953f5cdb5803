// Package rawio makes reads and writes of sockets cheaper where messages come one by one.
//
// A connection of package net tells Go's scheduler before each system call that this thread may
// block, and after it that it has not. The first such call after a moment of idleness wakes the
// runtime's monitor thread, which then looks every 20 µs whether a call is stuck until all is idle
// again: with 200 messages a second, a quarter of the CPU time of the whole process. But a call on
// a socket of package net never blocks: it is non-blocking, and the wait for it is the network
// poller's. So a connection of New makes these calls without telling; it waits, has deadlines and is
// closed as before, by package net.
//
// The monitor also preempts goroutines that run for more than 10 ms. It still does, from the first
// ordinary system call, timer or garbage collection on.
//
// It owns no goroutines. On other systems than Linux New changes nothing.
package rawio
