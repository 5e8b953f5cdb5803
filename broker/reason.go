package broker

import (
	"errors"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/chat"
)

// reasons is the one table from a code to what MQTT says. PUBACK and PUBREC take
// their row's puback; 0 there means that the publish is not answered and the
// connection ends with the disconnect code. For MQTT 3.1.1, CONNACK has return
// codes of its own and a refused publish is acknowledged (contract, 2).
//
// TooLarge on a publish is 0x99: a packet over Maximum Packet Size has ended the
// connection with 0x95 before; what is left is a content over its own limit, and
// 0x95 is not among the codes that PUBACK may carry (MQTT 5.0, table 3-4).
type reason struct{ connack, connackV3, puback, suback, disconnect packets.Code }

var reasons = map[chat.Code]reason{
	chat.Invalid: {
		packets.ErrClientIdentifierNotValid, packets.Err3ClientIdentifierNotValid, packets.ErrPayloadFormatInvalid, packets.ErrTopicFilterInvalid, packets.ErrProtocolViolation,
	},
	chat.Unauthenticated: {packets.ErrBadUsernameOrPassword, packets.Err3NotAuthorized, packets.ErrNotAuthorized, packets.ErrNotAuthorized, packets.ErrNotAuthorized},
	chat.Forbidden:       {packets.ErrNotAuthorized, packets.Err3NotAuthorized, packets.ErrNotAuthorized, packets.ErrNotAuthorized, packets.ErrNotAuthorized},
	chat.NotFound:        {packets.ErrUnspecifiedError, packets.Err3ServerUnavailable, packets.ErrNotAuthorized, packets.ErrNotAuthorized, packets.ErrUnspecifiedError},
	chat.Conflict:        {packets.ErrClientIdentifierNotValid, packets.Err3ClientIdentifierNotValid, packets.ErrImplementationSpecificError, packets.ErrImplementationSpecificError, packets.ErrSessionTakenOver},
	chat.TooLarge:        {packets.ErrPacketTooLarge, packets.Err3ServerUnavailable, packets.ErrPayloadFormatInvalid, packets.ErrUnspecifiedError, packets.ErrPacketTooLarge},
	chat.Quota:           {packets.ErrQuotaExceeded, packets.Err3ServerUnavailable, packets.ErrQuotaExceeded, packets.ErrQuotaExceeded, packets.ErrQuotaExceeded},
	chat.Unsupported: {
		packets.ErrUnsupportedProtocolVersion, packets.Err3UnsupportedProtocolVersion, packets.ErrImplementationSpecificError, packets.ErrSharedSubscriptionsNotSupported, packets.ErrImplementationSpecificError,
	},
	chat.Unavailable: {packets.ErrServerUnavailable, packets.Err3ServerUnavailable, packets.Code{}, packets.ErrUnspecifiedError, packets.ErrServerBusy},
	chat.Internal:    {packets.ErrUnspecifiedError, packets.Err3ServerUnavailable, packets.ErrUnspecifiedError, packets.ErrUnspecifiedError, packets.ErrUnspecifiedError},
}

// reasonFor returns the row of err; what has no code of ours is Internal.
func reasonFor(err error) reason {
	if r, ok := reasons[chat.CodeOf(err)]; ok {
		return r
	}
	return reasons[chat.Internal]
}

// ConnackReason returns what CONNACK says about err to a client of the given version.
func ConnackReason(err error, version byte) packets.Code {
	r := reasonFor(err)
	if version < 5 {
		return r.connackV3
	}
	code := r.connack
	code.Reason = chat.PublicMessage(err)
	return code
}

// PubackReason returns what PUBACK or PUBREC says about err; false if the publish
// must not be answered.
func PubackReason(err error) (byte, bool) {
	var e *chat.Error
	if errors.As(err, &e) && e.Code == chat.Invalid && e.Field == "topic" {
		return packets.ErrTopicNameInvalid.Code, true
	}
	code := reasonFor(err).puback.Code
	return code, code != 0
}

// SubackReason returns what SUBACK says about err.
func SubackReason(err error) byte { return reasonFor(err).suback.Code }

func disconnectReason(err error) byte { return reasonFor(err).disconnect.Code }
