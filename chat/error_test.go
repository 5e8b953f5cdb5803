package chat_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/parleymq/parley/chat"
)

func TestErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("secret: the password of the database")
	for _, code := range chat.Codes() {
		err := fmt.Errorf("on the way: %w", &chat.Error{Code: code, Op: "x.Y", Field: "f", Msg: "is so", Err: cause})
		if !errors.Is(err, code) || !errors.Is(err, cause) || chat.CodeOf(err) != code || chat.CodeOf(code) != code {
			t.Errorf("%s is not found in %v", code, err)
		}
		if !strings.Contains(err.Error(), cause.Error()) || !strings.Contains(err.Error(), "x.Y: "+string(code)+": f: is so") {
			t.Errorf("%s: the log hears %q", code, err)
		}
		public := chat.PublicMessage(err)
		if strings.Contains(public, "secret") || public == "" || (public == "f: is so") == (code == chat.Internal) {
			t.Errorf("%s: the peer hears %q", code, public)
		}
		if public := chat.PublicMessage(&chat.Error{Code: code, Err: cause}); public == "" || strings.Contains(public, "secret") {
			t.Errorf("%s without a message: the peer hears %q", code, public)
		}
		for _, other := range chat.Codes() {
			if other != code && errors.Is(err, other) {
				t.Errorf("%s is %s", code, other)
			}
		}
	}
	if chat.CodeOf(nil) != "" || chat.PublicMessage(nil) != "" {
		t.Error("nil has a code or a message")
	}
	if chat.CodeOf(cause) != chat.Internal || strings.Contains(chat.PublicMessage(cause), "secret") {
		t.Errorf("an error without code is %s, %q", chat.CodeOf(cause), chat.PublicMessage(cause))
	}
	if got := (&chat.Error{Code: chat.Invalid, Msg: "m"}).Public(); got != "m" {
		t.Errorf("Public without field = %q", got)
	}
}

func TestDeadlinesHaveNames(t *testing.T) {
	t.Parallel()
	ctx, cancel := chat.WithDeadline(t.Context(), time.Nanosecond, "x.wait")
	defer cancel()
	<-ctx.Done()
	err := context.Cause(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "x.wait") || chat.CodeOf(err) != chat.Unavailable {
		t.Errorf("Cause = %v, %s", err, chat.CodeOf(err))
	}
}

func TestTimestamp(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 6, 0, 0, 123_999_999, time.FixedZone("", 3600))
	if got := chat.Timestamp(at).Format(chat.TimeFormat); got != "2026-03-04T05:00:00.123Z" {
		t.Errorf("Timestamp = %s", got)
	}
	if d := time.Since(chat.SystemClock{}.Now()); d < 0 || d > time.Minute {
		t.Errorf("SystemClock is %v behind", d)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"ab": true, "a.b_c-9": true, "0a": true, strings.Repeat("a", 32): true,
		"": false, "a": false, strings.Repeat("a", 33): false, ".ab": false, "Ab": false, "a b": false, "ab\n": false, "é1": false,
	} {
		if err := chat.ValidateUsername(name); (err == nil) != ok || err != nil && chat.CodeOf(err) != chat.Invalid {
			t.Errorf("ValidateUsername(%q) = %v", name, err)
		}
	}
	for title, ok := range map[string]bool{
		"": true, strings.Repeat("☺", 200): true, strings.Repeat("☺", 201): false, "a\x00b": false, "\xff": false,
	} {
		if err := chat.ValidateTitle(title); (err == nil) != ok {
			t.Errorf("ValidateTitle(%q) = %v", title, err)
		}
	}
	if err := chat.ValidateDisplayName(strings.Repeat("☺", 101)); chat.PublicMessage(err) != "displayName: is too long: 101 characters, limit 100" {
		t.Errorf("ValidateDisplayName: %v", err)
	}
}
