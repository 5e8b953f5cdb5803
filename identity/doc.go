// Package identity knows who a caller is: accounts, passwords (argon2id), access
// tokens (JWT signed with EdDSA), refresh tokens that rotate, and the keys behind
// them. Both doors ask it through chat.Authenticator; rest also offers its
// accounts and logins to clients. What it stores, it stores through Store.
//
// A login is one device's permission to act as a user; REST calls it a session
// of the account (/api/sessions). The word session alone means what the broker
// remembers of a device.
package identity
