// Command parley is the server and everything its operator does from a terminal.
// main.go parses the command line; each command has a file: serve.go configures and runs
// the server.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/parleymq/parley/chat"
)

// cli is every command with its flags; each flag with an env may be set there instead.
type cli struct {
	Serve    serveCmd         `cmd:"" help:"Run the server: MQTT, REST and, unless DATABASE_URL is set, a private PostgreSQL."`
	Migrate  migrateCmd       `cmd:"" help:"Migrate the database's schema to this version and exit; serve does that too."`
	Verify   verifyCmd        `cmd:"" help:"Read the whole database and check that every promise about it holds."`
	Restored restoredCmd      `cmd:"" help:"Say that the database was restored to an earlier moment, where Parley cannot notice, so that clients start over."`
	User     userCmd          `cmd:"" help:"Add, list, enable and disable users; set passwords."`
	Token    tokenCmd         `cmd:"" help:"Issue an access token for a user, without their password."`
	Bench    benchCmd         `cmd:"" help:"Measure how fast a server is, what it costs, and whether everything arrives."`
	Version  kong.VersionFlag `help:"Print the version and exit."`
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the last line of stderr says why
	exitUsage  = 2 // the command line cannot be parsed
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
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true}),
		kong.ExplicitGroups([]kong.Group{{Key: "server", Title: "Server:"}, {Key: "measuring", Title: "Measuring:"}, {Key: "output", Title: "Output:"}}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(tty),
	)
	if err != nil {
		fmt.Fprintln(tty.Err, "parley:", err)
		return exitFailed
	}
	command, err := parser.Parse(withCommands(args))
	if exited != nil {
		return *exited
	}
	if err == nil {
		err = checkEnvironment(parser.Model.Node, os.Environ())
	}
	if err != nil {
		fmt.Fprintf(tty.Err, "parley: %v (see parley --help)\n", err)
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(tty.Err, "parley:", explain(err))
		return exitFailed
	}
	return exitOK
}

// withCommands lets help and version be commands, as they are with many programs, and bench --compare A B.
func withCommands(args []string) []string {
	switch {
	case len(args) > 0 && args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case len(args) == 1 && args[0] == "version":
		return []string{"--version"}
	case len(args) > 1 && args[0] == "bench" && args[1] == "--compare":
		return append([]string{"bench", "compare"}, args[2:]...)
	}
	return args
}

// explain returns an error for an operator: its public message where it has one, and
// everything known where it has none, or is internal.
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
