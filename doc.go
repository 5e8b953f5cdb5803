// Package parley is the root of Parley, a messaging backend with an MQTT broker inside: direct
// and group conversations, receipts, typing, presence and history, for phones (MQTT), browsers
// (MQTT over WebSocket), services and devices (any MQTT client), and REST for history and set-up.
// PostgreSQL holds the truth; Redis joins several nodes.
//
// There is no code here, only the house. To read it, start with
//
//   - chat, the language: users, conversations, events, and what a participant may do;
//   - app, where everything is put together, started and stopped;
//   - hooks, where a message comes in, and delivery, where it goes out.
//
// Which folder may know which is a table in arch_test.go, each line with its reason.
package parley
