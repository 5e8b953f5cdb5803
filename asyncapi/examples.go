package asyncapi

// Who and what the examples are about; the OpenAPI document has the same.
const (
	exampleConversation ID = "0198c0de-2b00-7c04-8000-00000000c0de"
	exampleUser         ID = "0198c0de-0a00-7a11-8000-0000000a11ce"
	exampleOther        ID = "0198c0de-0b00-7b0b-8000-000000000b0b"
	exampleMessage      ID = "0198c0df-1a2b-7e55-8000-00000000001d"
	exampleReply        ID = "0198c0df-4c00-7e55-8000-00000000002d"
	exampleAttachment   ID = "0198c0df-0f00-7f11-8000-0000000f11e5"
	exampleSession      ID = "0198c0de-0c00-7e5e-8000-00000005e551"
	exampleKey          ID = "5f0e6c1e-8d7e-4b57-9a64-3f1a0c2d9b11"

	exampleTime  Time = "2026-02-03T04:05:06.789Z"
	exampleLater Time = "2026-02-03T04:06:10.123Z"
)

// ExampleID returns the id that examples have in a field of that name, so that both
// documents tell one story.
func ExampleID(field string) ID {
	switch field {
	case "conversationId":
		return exampleConversation
	case "senderId", "userId", "userIds":
		return exampleUser
	case "otherUserId", "blockedId", "mentions":
		return exampleOther
	case "messageId", "messageIds", "around":
		return exampleMessage
	case "replyTo":
		return exampleReply
	case "attachments":
		return exampleAttachment
	case "sessionId":
		return exampleSession
	case "clientMsgId":
		return exampleKey
	}
	return exampleMessage
}

// IDField returns the name under which others refer to the id of a thing of that type.
func IDField(typeName string) string {
	switch typeName {
	case "User", "Me":
		return "userId"
	case "Conversation":
		return "conversationId"
	case "Session":
		return "sessionId"
	}
	return "messageId"
}

func head(seq Seq) eventHead {
	return eventHead{ConversationID: exampleConversation, Seq: seq, SenderID: exampleUser, CreatedAt: exampleTime}
}
