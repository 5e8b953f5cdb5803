// Package rest is Parley's REST API: accounts, logins, conversations and history
// as JSON, with an OpenAPI 3.1 document made from the same code. It calls chat and
// identity and decides nothing itself.
//
// Requests are read strictly: unknown fields and query parameters are refused by name,
// because a misspelt "clientMsgid" that is silently dropped costs its sender an evening.
// Answers may grow: clients must ignore fields that they do not know.
//
// Every error, including the router's own, is a Problem (RFC 9457); problem.go has the
// one table from chat's codes to HTTP status.
//
// The handler limits bodies (256 KiB, or 512 KiB where they may hold thousands of ids),
// the time of a request (15 s), and the rate of registrations and logins. The rest is up
// to the http.Server around it: ReadHeaderTimeout (about 5 s), ReadTimeout and
// WriteTimeout (about 30 s), IdleTimeout (about 2 min), MaxHeaderBytes (64 KiB), and a
// BaseContext with the app's lifetime, so that requests end with it.
package rest
