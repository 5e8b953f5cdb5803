package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
)

type userCmd struct {
	databaseFlags `embed:""`

	Add     userAddCmd     `cmd:"" help:"Add a user."`
	List    userListCmd    `cmd:"" help:"List all users."`
	Passwd  userPasswdCmd  `cmd:"" help:"Set a user's password; this ends all their sessions."`
	Disable userDisableCmd `cmd:"" help:"Disable a user: their sessions and connections end within a second, and they cannot log in."`
	Enable  userEnableCmd  `cmd:"" help:"Enable a disabled user."`
}

// withAccounts opens the database for do and closes it afterwards.
func (f databaseFlags) withAccounts(ctx context.Context, o identity.Options, do func(*identity.Service) error) error {
	db, closeDB, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer closeDB()
	o.Store = db
	if o.Clock, err = db.NewClock(ctx); err != nil {
		return err
	}
	accounts, err := identity.New(o)
	if err != nil {
		return err
	}
	return do(accounts)
}

type userAddCmd struct {
	Username    string `arg:"" help:"2 to 32 of a-z, 0-9, dot, underscore and hyphen."`
	Email       string `help:"Email address; it can be used to log in."`
	DisplayName string `help:"The name that others see; default: the user name."`
	Admin       bool   `help:"Make the user an operator."`
	passwordFlags
	outputFlags
}

// Run implements parley user add.
func (c *userAddCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	if err := chat.ValidateUsername(c.Username); err != nil {
		return err // before a password is asked for
	}
	return root.User.withAccounts(ctx, identity.Options{}, func(accounts *identity.Service) error {
		password, err := c.read(ctx, tty)
		if err != nil {
			return err
		}
		u, err := accounts.Register(ctx, identity.NewUser{
			Username: c.Username, Email: c.Email, DisplayName: c.DisplayName, Admin: c.Admin, Password: password,
		})
		if err != nil {
			return err
		}
		return c.print(tty, u, fmt.Sprintf("Added %s (%s).", u.Username, u.ID))
	})
}

type userListCmd struct{ outputFlags }

// Run implements parley user list.
func (c *userListCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	return root.User.withAccounts(ctx, identity.Options{}, func(accounts *identity.Service) error {
		w := tabwriter.NewWriter(tty.Out, 0, 0, 3, ' ', 0)
		if !c.JSON {
			fmt.Fprintln(w, "USERNAME\tNAME\tEMAIL\tCREATED\tSTATUS\tID")
		}
		for after := ""; ; {
			page, err := accounts.ListUsers(ctx, after, 500)
			if err != nil {
				return err
			}
			for i := range page {
				u := &page[i]
				if c.JSON {
					if err := c.print(tty, u, ""); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", u.Username, printable(u.DisplayName), u.Email, u.CreatedAt.Local().Format(time.DateOnly), status(u), u.ID)
			}
			if len(page) == 0 {
				return w.Flush()
			}
			after = page[len(page)-1].Username
		}
	})
}

func status(u *chat.User) string {
	switch {
	case !u.DisabledAt.IsZero():
		return "disabled"
	case u.Admin:
		return "admin"
	}
	return "active"
}

// printable keeps a name that a user chose from controlling the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

type userPasswdCmd struct {
	Username string `arg:"" help:"User name or email address."`
	passwordFlags
}

// Run implements parley user passwd.
func (c *userPasswdCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	return root.User.withAccounts(ctx, identity.Options{}, func(accounts *identity.Service) error {
		if _, err := accounts.FindUser(ctx, c.Username); err != nil {
			return err // before a password is asked for
		}
		password, err := c.read(ctx, tty)
		if err != nil {
			return err
		}
		u, err := accounts.SetPassword(ctx, c.Username, password)
		if err == nil {
			fmt.Fprintf(tty.Out, "%s has a new password; their sessions have ended.\n", u.Username)
		}
		return err
	})
}

type userDisableCmd struct {
	Username string `arg:"" help:"User name or email address."`
}

// Run implements parley user disable.
func (c *userDisableCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	return setDisabled(ctx, tty, root, c.Username, true, "is disabled")
}

type userEnableCmd struct {
	Username string `arg:"" help:"User name or email address."`
}

// Run implements parley user enable.
func (c *userEnableCmd) Run(ctx context.Context, tty terminal, root *cli) error {
	return setDisabled(ctx, tty, root, c.Username, false, "is enabled and can log in")
}

func setDisabled(ctx context.Context, tty terminal, root *cli, name string, disable bool, result string) error {
	return root.User.withAccounts(ctx, identity.Options{}, func(accounts *identity.Service) error {
		u, err := accounts.SetDisabled(ctx, name, disable)
		if err == nil {
			fmt.Fprintf(tty.Out, "%s %s.\n", u.Username, result)
		}
		return err
	})
}

type outputFlags struct {
	JSON bool `name:"json" help:"Print JSON, one object a line."`
}

// print writes a user as JSON, or the sentence.
func (f outputFlags) print(tty terminal, u *chat.User, sentence string) error {
	if !f.JSON {
		_, err := fmt.Fprintln(tty.Out, sentence)
		return err
	}
	v := struct {
		ID          chat.ID `json:"id"`
		Username    string  `json:"username"`
		Email       string  `json:"email,omitempty"`
		DisplayName string  `json:"displayName"`
		Admin       bool    `json:"admin,omitempty"`
		CreatedAt   string  `json:"createdAt"`
		DisabledAt  string  `json:"disabledAt,omitempty"`
	}{ID: u.ID, Username: u.Username, Email: u.Email, DisplayName: u.DisplayName, Admin: u.Admin, CreatedAt: u.CreatedAt.UTC().Format(chat.TimeFormat)}
	if !u.DisabledAt.IsZero() {
		v.DisabledAt = u.DisabledAt.UTC().Format(chat.TimeFormat)
	}
	e := json.NewEncoder(tty.Out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

type passwordFlags struct {
	PasswordStdin bool `help:"Read the password from standard input, up to the end of the line, instead of asking for it."`
}

// read gets a new password: asked for twice without echo, or from standard input. It is
// never taken from the command line, where everybody on the machine can read it.
func (f passwordFlags) read(ctx context.Context, tty terminal) (string, error) {
	if f.PasswordStdin {
		line, err := bufio.NewReader(io.LimitReader(tty.In, chat.MaxPasswordBytes+3)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		password := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		return password, identity.ValidatePassword(password)
	}
	in, ok := tty.In.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return "", errors.New("standard input is not a terminal to ask for a password on: use --password-stdin")
	}
	first, err := ask(ctx, tty, in, "Password: ")
	if err != nil {
		return "", err
	}
	if err := identity.ValidatePassword(first); err != nil {
		return "", err
	}
	second, err := ask(ctx, tty, in, "Again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two passwords differ")
	}
	return first, nil
}

func ask(ctx context.Context, tty terminal, in *os.File, prompt string) (string, error) {
	fd := int(in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	type answer struct {
		text []byte
		err  error
	}
	got := make(chan answer, 1)
	fmt.Fprint(tty.Err, prompt)
	// A read from a terminal cannot be interrupted: after ^C the goroutine is left
	// to the end of the process, which comes at once.
	go func() {
		text, err := term.ReadPassword(fd)
		got <- answer{text, err}
	}()
	select {
	case a := <-got:
		fmt.Fprintln(tty.Err)
		if a.err != nil {
			return "", fmt.Errorf("read the password: %w", a.err)
		}
		return string(a.text), nil
	case <-ctx.Done():
		fmt.Fprintln(tty.Err)
		return "", errors.Join(errors.New("interrupted"), term.Restore(fd, before))
	}
}
