package chat

// Limits that clients can see. The database has the same bounds as constraints.
const (
	MaxContentBytes   = 64 << 10 // of a message's content, UTF-8
	MaxCommandBytes   = 192 << 10
	MaxAttachments    = 20
	MaxGroupMembers   = 10_000
	MaxBlockedUsers   = 10_000
	MaxAddedMembers   = 100     // added to a group at once
	MaxListedMembers  = 20      // of each conversation in a list of conversations
	MaxEventUsers     = 100     // named in one event of the log; a larger group is listed by REST
	MaxContactMembers = 500     // of a conversation whose members are contacts of each other
	MaxReadIDs        = 1000    // messages marked as read at once
	MaxListedReceipts = 100     // readers of a message, and those it was delivered to
	MaxTyping         = 20      // conversations in which a device types at once
	MaxSignalPayload  = 1024    // bytes published on conv/{id}/typing or user/{id}/presence
	MaxWillBytes      = 8 << 10 // of a will's payload, which stays in memory as long as the connection
	MaxTitleRunes     = 200
	MaxPageSize       = 100
	DefaultPageSize   = 50
	MinUsernameBytes  = 2
	MaxUsernameBytes  = 32
	MaxDisplayRunes   = 100
	MaxEmailBytes     = 254 // RFC 5321, 4.5.3.1
	MinPasswordBytes  = 8
	MaxPasswordBytes  = 1024
	MaxClientIDBytes  = 256
	MaxDeviceNameRune = 100
)
