// Package rest is Parley's REST API: accounts, logins, conversations and history
// as JSON, with an OpenAPI 3.1 document made from the same code. It calls chat and
// identity and decides nothing itself.
//
// What is sent is read strictly: unknown fields and query parameters are refused
// by name, because a misspelt "clientMsgid" that is silently dropped costs its
// sender an evening. What is answered may grow: clients must ignore fields they
// do not know.
//
// Every error, the router's own too, is a Problem (RFC 9457); problem.go holds the
// one table from chat's codes to HTTP status.
//
// The handler bounds bodies (256 KiB, or 512 where they may hold thousands of ids), the time of a request (15 s) and the rate of
// registrations and logins. What it cannot do belongs to the http.Server around
// it: ReadHeaderTimeout (about 5 s), ReadTimeout and WriteTimeout (about 30 s),
// IdleTimeout (about 2 min), MaxHeaderBytes (64 KiB), and BaseContext from the
// app's lifetime so that requests end when it does.
package rest
