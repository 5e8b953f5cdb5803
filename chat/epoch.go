package chat

import (
	"encoding/base32"
	"errors"
)

// ErrSetBack is the cause of an error where the database was set back to an earlier moment,
// or replaced, under a running node: nothing that the node holds in memory is true any more,
// and it has to start again.
var ErrSetBack = errors.New("the database was set back to an earlier moment, or replaced")

// LogEpoch names a numbering of the logs: a seq means the same event only within one epoch.
// It changes when the database was set back to an earlier moment, after which numbers are
// given out again, and where it was copied, since from there on two databases give out the
// same ones. 8 of a–z and 0–9, opaque to clients (contract, 2).
type LogEpoch string

var epochText = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// EpochOf returns the epoch of an id that NewID has made, from the last of its random bits.
func EpochOf(id ID) LogEpoch { return LogEpoch(epochText.EncodeToString(id[len(id)-5:])) }
