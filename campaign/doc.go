// Package campaign tries to break promises 1 to 6 and 8 to 10 of the contract. It runs the real
// server as a process over a durable PostgreSQL, lets devices write, read, resend,
// fall silent and come back through a proxy of its own, and meanwhile kills,
// stops and restarts both processes, and cuts, stalls and slows every line.
//
// A campaign is rounds of load and faults, each followed by a checkpoint: all is
// healed, nobody writes anything new, and everything that the promises say about
// what has happened so far must come true: for those who are connected without
// reconnecting. Between checkpoints each device checks what it receives as it
// comes; receive.go has the rules. What contradicts a promise is a Violation.
//
// Everything random comes from the seed: who the devices are, what each does when
// it has its turn, and which faults strike when. The same seed repeats the schedule,
// not the scheduling of processes, so a failure may need a few runs to come again.
//
// The promises are all it shares with the server: it speaks MQTT with the codec of the
// broker's test client, and REST, and asks the store only for the truth to compare with.
package campaign
