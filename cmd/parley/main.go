// Command parley is the server and everything its operator does from a terminal.
// A file each: main.go reads the command line, serve.go puts the server together.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/parleymq/parley/chat"
)

// cli is every command with its flags; each flag with an env may be set there instead.
type cli struct {
	Serve   serveCmd         `cmd:"" help:"Run the server: MQTT, REST and, unless DATABASE_URL is set, a private PostgreSQL."`
	Migrate migrateCmd       `cmd:"" help:"Bring the database's schema up to date and exit; serve does it too."`
	Verify  verifyCmd        `cmd:"" help:"Read the whole database and check that every promise holds in it."`
	User    userCmd          `cmd:"" help:"Add, list, disable users; set passwords."`
	Token   tokenCmd         `cmd:"" help:"Make an access token for a user, without a password."`
	Version kong.VersionFlag `help:"Print the version and exit."`
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the last line of stderr says why
	exitUsage  = 2 // the command line is not understood
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop() // with the process, no sooner: a second signal, at the end, must not change the exit code
	os.Exit(run(ctx, terminal{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}, os.Args[1:]))
}

// terminal is where a command reads and writes.
type terminal struct {
	In       io.Reader
	Out, Err io.Writer
}

// run is main without the process: it never exits.
func run(ctx context.Context, tty terminal, args []string) int {
	var exited *int // --help and --version end the parsing
	var c cli
	parser, err := kong.New(&c,
		kong.Name("parley"),
		kong.Description("Parley, a messaging backend with an MQTT broker inside."),
		kong.Vars{"version": version()},
		kong.Writers(tty.Out, tty.Err),
		kong.Exit(func(code int) { exited = &code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(tty),
	)
	if err != nil {
		fmt.Fprintln(tty.Err, "parley:", err)
		return exitFailed
	}
	command, err := parser.Parse(args)
	if exited != nil {
		return *exited
	}
	if err != nil {
		fmt.Fprintf(tty.Err, "parley: %v (parley --help lists what there is)\n", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(tty.Err, "parley:", explain(err))
		return exitFailed
	}
	return exitOK
}

// explain is an error for an operator: the sentence for the peer where there is
// one, and everything known where there is none or it is our fault.
func explain(err error) string {
	var e *chat.Error
	if !errors.As(err, &e) || e.Code == chat.Internal || e.Msg == "" {
		return err.Error()
	}
	return chat.PublicMessage(err)
}

// version is the version the binary was built from.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
