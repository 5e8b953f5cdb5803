package asyncapi

import "github.com/parleymq/parley/chat"

// ReasonCode is what an acknowledgement of a publish may say: PUBACK, PUBREC.
type ReasonCode struct {
	Code   int       `json:"code"`                 // 0: nothing is acknowledged, and the connection ends
	Reason string    `json:"reason"`               // its name in MQTT 5
	Why    string    `json:"why"`                  // when that is
	Chat   chat.Code `json:"problem"`              // the code of the same refusal in REST and on user/{userId}/errors; "": none
	After  int       `json:"disconnect,omitempty"` // the code of the DISCONNECT
}

// ReasonCodes returns what a publish may be answered in MQTT 5, in the order in which
// people meet it. A test compares it with the broker's own table.
func ReasonCodes() []ReasonCode {
	return []ReasonCode{
		{Code: 0x00, Reason: "Success", Why: "It is committed (commands), or taken (signals)."},
		{Code: 0x87, Reason: "Not authorized", Chat: chat.Forbidden, Why: "Not a member of the conversation, blocked, or not allowed to do that. Also for topics that are none of Parley's."},
		{Code: 0x87, Reason: "Not authorized", Chat: chat.NotFound, Why: "There is no such message, or not for this user."},
		{Code: 0x99, Reason: "Payload format invalid", Chat: chat.Invalid, Why: "Something in the payload is wrong; the reason string names the field and its limit."},
		{Code: 0x99, Reason: "Payload format invalid", Chat: chat.TooLarge, Why: "The content is over its limit."},
		{Code: 0x83, Reason: "Implementation specific error", Chat: chat.Conflict, Why: "The same clientMsgId was used for something else, or the message is in no state for it."},
		{Code: 0x97, Reason: "Quota exceeded", Chat: chat.Quota, Why: "Over a rate or a count; the reason string names it."},
		{Code: 0x83, Reason: "Implementation specific error", Chat: chat.Unsupported, Why: "Understood, and not offered."},
		{Code: 0x87, Reason: "Not authorized", Chat: chat.Unauthenticated, Why: "The login was revoked meanwhile."},
		{Code: 0x80, Reason: "Unspecified error", Chat: chat.Internal, Why: "Something went wrong on our side."},
		{Code: 0, Reason: "none: DISCONNECT, Server busy", Chat: chat.Unavailable, Why: "The database is away. Nothing is acknowledged; connect again, and send again with the same clientMsgId.", After: 0x89},
	}
}
