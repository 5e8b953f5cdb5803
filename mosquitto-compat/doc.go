// Package mosquitto lets Parley take the place of a Mosquitto: it reads
// mosquitto.conf, password files and ACL files, says line by line what it makes of
// them, and answers as Mosquitto 2 does. Where it does not, DIVERGENCES.md has an
// entry.
//
// It is a door's rules, not a door: Load tells the program where to listen, and a
// Gate, made from each listener's files, is the chat.Authenticator, chat.GuestBook
// and chat.TopicAccess of that listener.
package mosquitto
