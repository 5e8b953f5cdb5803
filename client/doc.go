// Package client is Parley's client for Go programs: bots, services, tools. It keeps up
// a connection to the server, sends so that nothing is lost or stored twice, and
// delivers events to the program in order and at least once.
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
// OnEvent has returned nil, so a program that ends or crashes before that receives it
// again under the same ClientID. The client drops events that it knows to have been
// handled (a seq no higher than the last one of the conversation); with
// Options.Positions it knows that across restarts, too.
//
// Signals (typing, reads, presence) come to their own functions, on another
// goroutine, and may be missed: only the latest state of each thing counts.
//
// # The connection
//
// Dial tries once, and returns what went wrong. After that the client reconnects
// whenever the connection is lost, with growing pauses, for as long as it takes, and
// with a valid access token each time. Where retrying is pointless the client ends:
// another program has taken over the same ClientID of the same user, or the login is
// no longer valid. Done and Err report that.
//
// # REST
//
// API has the rest: accounts, conversations, history, search, sync. A Client includes an
// API; NewAPI makes one without a connection.
package client
