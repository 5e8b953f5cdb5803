package store

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/parleymq/parley/chat"
)

// SQLSTATEs (PostgreSQL's manual, appendix A). Class 08 is a lost connection, 53
// too little of something (disk, memory, connections), 57P an operator's doing.
const (
	stateNotSupported      = "0A000"
	stateForeignKey        = "23503"
	stateUnique            = "23505"
	stateCheck             = "23514"
	stateBadCharacter      = "22021" // NUL, or not UTF-8
	stateUntranslatable    = "22P05" // \u0000 in jsonb
	stateReadOnly          = "25006"
	stateIdleInTx          = "25P03"
	stateSerialization     = "40001"
	stateDeadlock          = "40P01"
	stateNoSchema          = "3F000" // the search_path names none that exists
	statePrivilege         = "42501"
	stateUndefinedTable    = "42P01"
	stateUndefinedFunction = "42883"
	stateNotInState        = "55000" // such as: only on a server that is no replica
	stateLockNotFree       = "55P03"
	stateQueryCanceled     = "57014"
	stateIO                = "58030"
	classConnection        = "08"
	classResources         = "53"
	classOperator          = "57"
)

// constraintErrors says what a violated constraint means to a peer, by its name.
var constraintErrors = map[string]chat.Error{
	"users_username_unique":      {Code: chat.Conflict, Field: "username", Msg: "is taken"},
	"users_email_unique":         {Code: chat.Conflict, Field: "email", Msg: "is taken"},
	"users_username_length":      {Code: chat.Invalid, Field: "username", Msg: "must have 2 to 32 characters"},
	"users_email_length":         {Code: chat.Invalid, Field: "email", Msg: "is too long, limit 254 characters"},
	"users_display_name_length":  {Code: chat.Invalid, Field: "displayName", Msg: "is too long, limit 100 characters"},
	"logins_user":                {Code: chat.NotFound, Field: "userId", Msg: "there is no such user"},
	"logins_device_length":       {Code: chat.Invalid, Field: "device", Msg: "is too long, limit 100 characters"},
	"conversations_kind":         {Code: chat.Invalid, Field: "kind", Msg: `must be "direct" or "group"`},
	"direct_conversations_order": {Code: chat.Invalid, Field: "otherUserId", Msg: "must be the id of another user"},
	"conversations_title_length": {Code: chat.Invalid, Field: "title", Msg: "is too long, limit 200 characters"},
	"events_content_length":      {Code: chat.TooLarge, Field: "content", Msg: "is too long, limit 65536 bytes"},
}

// translate turns an error of pgx into a *chat.Error with the given Op, by
// SQLSTATE and constraint name; the cause stays inside, for the log. A
// *chat.Error is returned as it is, nil as nil.
//
// A database that cannot serve now, for whatever reason (unreachable, starting,
// shutting down, read-only, full, out of connections, a lock or the caller's own
// time not obtained) is Unavailable. What is not known is Internal.
func translate(op string, err error) error {
	var known *chat.Error
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case isUnavailable(err):
		return &chat.Error{Code: chat.Unavailable, Op: op, Err: err}
	case errors.As(err, &pg):
		return translateState(op, pg, err)
	case errors.Is(err, pgx.ErrNoRows):
		return &chat.Error{Code: chat.NotFound, Op: op, Err: err}
	}
	return &chat.Error{Code: chat.Internal, Op: op, Err: err}
}

func translateState(op string, pg *pgconn.PgError, cause error) error {
	e := chat.Error{Code: chat.Internal}
	switch pg.Code {
	case stateUnique:
		e = chat.Error{Code: chat.Conflict, Msg: "it exists already"}
	case stateForeignKey:
		e = chat.Error{Code: chat.NotFound, Msg: "it refers to something that does not exist"}
	case stateCheck:
		e = chat.Error{Code: chat.Invalid, Msg: "a value is outside its limits"}
	case stateBadCharacter, stateUntranslatable:
		e = chat.Error{Code: chat.Invalid, Msg: "text must be valid UTF-8 without NUL"}
	}
	if pg.ConstraintName != "" {
		if named, ok := constraintErrors[pg.ConstraintName]; ok {
			e = named
		}
	}
	e.Op, e.Err = op, cause
	return &e
}

// isUnavailable reports whether the database, or our way to it, cannot serve now and
// may later. It is about err alone: no round trip.
func isUnavailable(err error) bool {
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	var netErr net.Error
	switch {
	case errors.As(err, &connect): // whatever the server said to a new connection
		return true
	case errors.As(err, &pg):
		return isUnavailableState(pg.Code)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled), pgconn.Timeout(err):
		return true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.As(err, &netErr):
		return true
	case errors.Is(err, puddle.ErrClosedPool), pgconn.SafeToRetry(err): // nothing was sent
		return true
	}
	return false
}

func isUnavailableState(state string) bool {
	switch state {
	case stateReadOnly, stateIdleInTx, stateSerialization, stateDeadlock, stateLockNotFree, stateQueryCanceled, stateIO:
		return true
	}
	switch state[:min(2, len(state))] {
	case classConnection, classResources, classOperator:
		return true
	}
	return false
}

// pgError returns the server's error inside err, or nil.
func pgError(err error) *pgconn.PgError {
	var pg *pgconn.PgError
	errors.As(err, &pg)
	return pg
}

// sqlState returns the server's code for err, or "" if it is not the server's.
func sqlState(err error) string {
	if pg := pgError(err); pg != nil {
		return pg.Code
	}
	return ""
}

// notFound is the answer about a thing that is not there or that the caller may
// not know of, in the same words.
func notFound(op, field, what string, id chat.ID) error {
	return &chat.Error{Code: chat.NotFound, Op: op, Field: field, Msg: "there is no " + what + " " + id.String()}
}

// noConversation is the answer to non-members, and about a conversation that does not exist.
func noConversation(op string, id chat.ID) error {
	return notFound(op, "conversationId", "conversation", id)
}
