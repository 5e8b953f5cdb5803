package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/parleymq/parley/client"
)

// Bob listens; Ann says hello.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	heard := make(chan string, 100)
	bob, err := client.Dial(ctx, client.Options{
		URL: os.Getenv("PARLEY_URL"), Username: "bob", Password: "battery staple", ClientID: "phone",
		OnEvent: func(ctx context.Context, e *client.Event) error {
			if m := e.Message(); m != nil {
				heard <- m.Content
			}
			return nil // handled: it does not come again
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bob.Close(ctx)

	ann, err := client.Dial(ctx, client.Options{
		URL: os.Getenv("PARLEY_URL"), Username: "ann", Password: "correct horse", ClientID: "laptop",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ann.Close(ctx)

	conversation, _, err := ann.CreateDirect(ctx, bob.Me().ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	receipt, err := ann.Send(ctx, conversation, client.Message{Content: "Hello, Bob."})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("stored:", receipt.Seq > 0)
	fmt.Println("heard:", <-heard)
	// Output:
	// stored: true
	// heard: Hello, Bob.
}

// A bot that answers whatever is said in its conversations, each message once: the
// answer's ClientMsgID is the id of what it answers, so that it is stored once
// however often the event comes.
func Example_bot() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var bot *client.Client
	ready := make(chan struct{})
	bot, err := client.Dial(ctx, client.Options{
		URL: os.Getenv("PARLEY_URL"), Username: "bob", Password: "battery staple", ClientID: "echo",
		OnEvent: func(ctx context.Context, e *client.Event) error {
			<-ready
			m := e.Message()
			if m == nil || m.SenderID == bot.Me().ID {
				return nil
			}
			_, err := bot.Send(ctx, m.ConversationID, client.Message{Content: "You said: " + m.Content, ReplyTo: m.ID, ClientMsgID: m.ID})
			if errors.Is(err, client.Forbidden) {
				return nil // no longer a member
			}
			return err
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bot.Close(ctx)
	close(ready)

	answers := make(chan string, 1)
	ann, err := client.Dial(ctx, client.Options{
		URL: os.Getenv("PARLEY_URL"), Username: "ann", Password: "correct horse",
		OnEvent: func(ctx context.Context, e *client.Event) error {
			if e.SenderID == bot.Me().ID {
				answers <- e.Content
			}
			return nil
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ann.Close(ctx)
	group, err := ann.CreateGroup(ctx, "Echoes", bot.Me().ID)
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := ann.Send(ctx, group.ID, client.Message{Content: "Is anybody there?"}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(<-answers)
	// Output: You said: Is anybody there?
}

// REST alone needs no connection.
func ExampleNewAPI() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	api, err := client.NewAPI(client.Options{URL: os.Getenv("PARLEY_URL"), Username: "ann", Password: "correct horse"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer api.CloseIdle()
	_, err = api.Register(ctx, client.NewUser{Username: "ann", Email: "ann2@example.com", Password: "correct horse"})
	fmt.Println("taken:", errors.Is(err, client.Conflict))

	for u, err := range api.Users(ctx, "bob") {
		if err != nil {
			fmt.Println(err)
			return
		}
		id, _, err := api.CreateDirect(ctx, u.ID)
		if err != nil {
			fmt.Println(err)
			return
		}
		for m, err := range api.History(ctx, id) {
			if err != nil {
				fmt.Println(err)
				return
			}
			_ = m // the newest message
			break
		}
		fmt.Println("found:", u.Username)
	}
	// Output:
	// taken: true
	// found: bob
}

// Errors say what happened to programs and to people.
func ExampleError() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := client.Dial(ctx, client.Options{URL: os.Getenv("PARLEY_URL"), Username: "ann", Password: "guess"})
	fmt.Println(errors.Is(err, client.Unauthenticated))
	fmt.Println(err)
	// Output:
	// true
	// parley: log in: unauthenticated: user name or password is wrong
}
