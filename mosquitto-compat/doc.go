// Package mosquitto lets Parley take the place of a Mosquitto: it reads mosquitto.conf,
// password files and ACL files, gives a verdict on each line, and decides as Mosquitto 2
// does. Where it differs, DIVERGENCES.md has an entry.
//
// It listens on nothing and knows no wire. Load reads the configuration, Open the files
// that it names, and the Gate of each listener is its chat.Authenticator, chat.GuestBook
// and chat.TopicAccess. Rules.Reload replaces what a Gate decides by in one step, or not
// at all, while clients are connected.
//
// It starts no goroutines. Its only lock makes Reload run once at a time; a Gate reads
// its files through an atomic pointer.
package mosquitto
