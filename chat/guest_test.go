package chat_test

import (
	"testing"

	"github.com/parleymq/parley/chat"
)

// A guest is never taken for an account, nor for another guest.
func TestGuests(t *testing.T) {
	t.Parallel()
	seen := map[chat.ID]string{}
	for name, p := range map[string]chat.Principal{
		"nobody": chat.AnonymousPrincipal(), "lamp": chat.GuestPrincipal("file", "lamp"), "lamp, unverified": chat.GuestPrincipal("unverified", "lamp"),
		"nobody on a": chat.AnonymousPrincipal().OnDevice("a"), "lamp on a": chat.GuestPrincipal("file", "lamp").OnDevice("a"),
		"lamp on b": chat.GuestPrincipal("file", "lamp").OnDevice("b"), "realm and name joined": chat.GuestPrincipal("filel", "amp"),
	} {
		if p.HasAccount() {
			t.Errorf("%s has an account", name)
		}
		if other, twice := seen[p.UserID]; twice {
			t.Errorf("%s is %s", name, other)
		}
		seen[p.UserID] = name
		if _, err := chat.ParseID(p.UserID.String()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a, b := chat.GuestPrincipal("file", "lamp").OnDevice("a"), chat.GuestPrincipal("file", "lamp").OnDevice("a"); a != b {
		t.Errorf("the same device is %v and %v", a, b)
	}
	if p := (chat.Principal{UserID: chat.NewID()}); !p.HasAccount() || p.OnDevice("a") != p {
		t.Errorf("an account is a guest")
	}
}
