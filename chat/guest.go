package chat

import (
	"context"
	"crypto/sha256"
)

// A guest is a client that may use device topics and has no account: it is in a
// password file of Mosquitto's, or has shown nothing at all. It is a Principal whose
// UserID is a UUIDv8, which no account has (those are version 7), so that it is in
// no conversation, has no contacts, and nobody finds it. Whatever belongs to a user
// is refused to it (Forbidden).

// AnonymousPrincipal is who connects without a user name, where that is allowed.
func AnonymousPrincipal() Principal {
	return Principal{UserID: guestID("anonymous", "")}
}

// GuestPrincipal is a guest by a user name that something outside Parley's accounts
// vouches for, such as a password file. The name is as the client sent it: 1 to
// 65,535 bytes of any UTF-8. realm says who vouches; the same name in another realm
// is somebody else.
func GuestPrincipal(realm, name string) Principal {
	return Principal{UserID: guestID(realm, name), Username: name}
}

// HasAccount reports whether p is a user of Parley's, and no guest.
func (p Principal) HasAccount() bool { return p.UserID[6]>>4 != guestVersion }

// OnDevice returns p as it is on one device: a guest's name may be that of thousands
// of devices (it is a role, or nobody's), so each client id is one of its own, with
// the limits of one. For a user with an account it is p.
func (p Principal) OnDevice(clientID string) Principal {
	if !p.HasAccount() {
		p.UserID = guestID("device "+p.UserID.String(), clientID)
	}
	return p
}

// GuestBook is an Authenticator's other face, where guests may come in.
type GuestBook interface {
	// VerifyGuestPassword tells who a guest with a password is. It is asked before
	// VerifyPassword, and before the limit on passwords of accounts; Unauthenticated
	// if they are nobody here, and may have an account. It may wait for its turn,
	// until ctx ends; Quota when too many wait.
	VerifyGuestPassword(ctx context.Context, username, password string) (Principal, error)
	// VerifyGuest tells who a client is that has sent a user name (or none: "") and
	// no password; Unauthenticated if such are not let in. It does not block.
	VerifyGuest(ctx context.Context, username string) (Principal, error)
	// VerifyCertificate tells who a client is that has shown a certificate, verified
	// by TLS, with this common name. It does not block.
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
