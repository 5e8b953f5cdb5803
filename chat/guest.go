package chat

import (
	"context"
	"crypto/sha256"
)

// A guest is a client without an account that may use device topics: it is in a Mosquitto
// password file, or has sent no credentials. Its Principal has a UUIDv8 as UserID, which no
// account has (those are version 7): it is in no conversation, has no contacts, and cannot
// be found. Everything that belongs to a user is Forbidden to it.

// AnonymousPrincipal is the Principal of clients without a user name, where they are
// allowed.
func AnonymousPrincipal() Principal {
	return Principal{UserID: guestID("anonymous", "")}
}

// GuestPrincipal is the Principal of a guest whose user name was verified by something
// other than Parley's accounts, such as a password file. name is as the client sent it: 1
// to 65,535 bytes of any UTF-8. realm says what verified it; the same name in another realm
// is another guest.
func GuestPrincipal(realm, name string) Principal {
	return Principal{UserID: guestID(realm, name), Username: name}
}

// HasAccount reports whether p is a user with an account, not a guest.
func (p Principal) HasAccount() bool { return p.UserID[6]>>4 != guestVersion }

// OnDevice returns the Principal of one device of p. Thousands of devices may share a
// guest's name, so each client id is a guest of its own, with its own limits. For a user
// with an account it is p.
func (p Principal) OnDevice(clientID string) Principal {
	if !p.HasAccount() {
		p.UserID = guestID("device "+p.UserID.String(), clientID)
	}
	return p
}

// GuestBook authenticates guests, where they are allowed.
type GuestBook interface {
	// VerifyGuestPassword authenticates a guest by password. It is called before
	// Authenticator.VerifyPassword and before the limit on passwords of accounts.
	// Unauthenticated if there is no such guest; the client may still have an account. It
	// may wait for other calls, until ctx ends; Quota when too many wait.
	VerifyGuestPassword(ctx context.Context, username, password string) (Principal, error)
	// VerifyGuest authenticates a client that has sent a user name (or none: "") and no
	// password; Unauthenticated if those are not allowed. It does not block.
	VerifyGuest(ctx context.Context, username string) (Principal, error)
	// VerifyCertificate authenticates a client with a TLS certificate, which has been
	// verified, by its common name. It does not block.
	VerifyCertificate(ctx context.Context, name string) (Principal, error)
}

const guestVersion = 8 // of the UUID: RFC 9562, 5.8

func guestID(realm, name string) ID {
	h := sha256.Sum256([]byte("parley guest\x00" + realm + "\x00" + name))
	id := ID(h[:16])
	id[6] = guestVersion<<4 | id[6]&0x0f
	id[8] = 0x80 | id[8]&0x3f
	return id
}
