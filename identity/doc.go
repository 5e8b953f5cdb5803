// Package identity authenticates callers: accounts, passwords (argon2id), access tokens
// (JWT signed with EdDSA), refresh tokens that rotate, and the keys behind them. HTTP and
// MQTT ask it through chat.Authenticator; rest also offers accounts and logins to
// clients. It persists everything through Store.
//
// A login is one device's permission to act as a user; REST calls it a session of the
// account (/api/sessions). The word session alone means what the broker remembers of a
// device.
//
// It promises that a revocation is effective on this node when the call returns, and on
// every other node within a second, as long as the database answers; without it, tokens
// are accepted for 10 s more and then not at all. Checking a token costs no query as a
// rule; checking a password costs one, and a slot of the hasher, which bounds CPU and
// memory.
//
// Service.Run is its only goroutine. keyring.loading and revocations.polling let one
// caller at a time read the database; revocations.mu and Limiter.mu are held for look-ups
// only, never together and never during a query or a callback.
package identity
