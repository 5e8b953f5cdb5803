// Package client is Parley for Go programs: bots, services, tools. It keeps a
// connection to the server up by itself, sends so that nothing is stored twice or
// lost, and hands what it receives to the program, in order and at least once.
//
//	c, err := client.Dial(ctx, client.Options{
//		URL: "http://localhost:8080", Username: "ann", Password: "correct horse", ClientID: "laptop",
//		OnEvent: func(ctx context.Context, e *client.Event) error {
//			fmt.Println(e.SenderID, e.Content)
//			return nil
//		},
//	})
//	…
//	receipt, err := c.Send(ctx, conversation, client.Message{Content: "hello"})
//
// # Sending
//
// Send, Edit, Delete, React and Unreact return when the server has committed what
// they ask for. If the connection is lost meanwhile, or not there at all, they wait
// for the next one and try again, until their context ends, under the same
// clientMsgId: however often that happens, it is done once. So give them a context
// with a deadline. What one goroutine sends, one after the other, is stored in that
// order. If a context ends, it is not known whether the message was stored; sending
// it again with the same ClientMsgID is safe.
//
// # Receiving
//
// Events come to Options.OnEvent one at a time: those of each conversation in the
// order of Seq, each at least once. An event is acknowledged to the server only when
// OnEvent has returned nil, so that a program that ends, or crashes, before gets it
// again under the same ClientID. What the client knows to have been handled (the
// same conversation, and a seq that is not beyond the last) it drops; with
// Options.Positions that knowledge survives the program too.
//
// Signals (typing, reads, presence) come to their own functions, on another
// goroutine, and may be missed: only the latest state of each thing counts.
//
// # The connection
//
// Dial tries once, and says what is wrong. Afterwards a lost connection is made
// again, with growing pauses, for as long as it takes, and with a fresh access token
// each time. What would be no use trying again ends the client: another program took
// the same ClientID of the same user over, or the login is no longer good. Done and
// Err tell of it.
//
// # REST
//
// API is the other half: accounts, conversations, history, search, sync. A Client is
// an API too; NewAPI makes one that needs no connection.
package client
