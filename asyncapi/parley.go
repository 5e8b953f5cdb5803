package asyncapi

import "reflect"

// New returns the document for a server of that version.
func New(version string) *Document {
	d := &Document{
		AsyncAPI: "3.0.0", ID: "urn:parley:mqtt", DefaultContentType: "application/json",
		Info: Info{
			Title: "Parley over MQTT", Version: version, Description: description,
			Tags: []Tag{{"conversations", "What is said in a conversation, and about it."}, {"users", "What concerns one user."}, {"devices", "Plain MQTT beside conversations, for devices and what talks to them."}},
		},
	}
	b := &builder{d}
	b.connections()
	b.conversationMessages()
	b.signalMessages()
	b.conversationTopics()
	b.userTopics()
	b.deviceTopics()
	return d
}

const description = "Live messaging over MQTT 5.0 and 3.1.1. Accounts, history and set-up are REST: see /openapi.json. " +
	"What is sent by one is received by the other.\n\n" +
	"The document is written from the server's side, as is usual: on `receive` operations clients publish, on `send` operations subscribers receive.\n\n" +
	"**Wildcards** mean *mine*: a filter such as `conv/+/messages` covers the user's own conversations, now and later, and nobody else's. " +
	"`$share` on them is refused (0x9E).\n\n" +
	"**Device topics**: what is below `dev/` is plain MQTT, and each user's own.\n\n" +
	"**Acknowledgement.** PUBACK (PUBREC at QoS 2) of a command comes after the commit, never before. " +
	"MQTT 3.1.1 has no negative answer: there a refused publish is acknowledged, and an object on `user/{userId}/errors` says why.\n\n" +
	"What clients receive may get new fields, and new types of event, at any time: pass over what you do not know."

func (b *builder) connections() {
	host := Member[Variable]{"host", Variable{"localhost", "The server's name or address."}}
	security := []Ref{{"#/components/securitySchemes/accessToken"}, {"#/components/securitySchemes/account"}}
	bindings := &Bindings{MQTTBinding{MaximumPacket: 256 << 10, KeepAlive: 60, SessionExpiry: 90 * 24 * 3600, BindingVersion: bindingVersion}}
	about := "The client id names the device, and belongs to the user: two users may use the same one. Clean start 0 with a session expiry keeps the session, " +
		"for up to 90 days; what it misses is read from the log when it is back."
	b.d.Servers = Ordered[Server]{
		{"mqtt", Server{
			Host: "{host}:{port}", Protocol: "mqtt", ProtocolVersion: "5.0", Title: "MQTT over TCP", Description: "MQTT 5.0 and 3.1.1. " + about,
			Variables: Ordered[Variable]{host, {"port", Variable{"1883", "PARLEY_MQTT_ADDR says which."}}}, Security: security, Bindings: bindings,
		}},
		{"websocket", Server{
			Host: "{host}:{port}", Pathname: "/mqtt", Protocol: "ws", ProtocolVersion: "5.0", Title: "MQTT over WebSocket",
			Description: "The same, for browsers, on the port of REST: subprotocol `mqtt`. " + about,
			Variables:   Ordered[Variable]{host, {"port", Variable{"8080", "PARLEY_HTTP_ADDR says which."}}}, Security: security,
		}},
	}
	b.d.Components.SecuritySchemes = Ordered[SecurityScheme]{
		{"accessToken", SecurityScheme{Type: "apiKey", In: "password", Description: "CONNECT with the access token of POST /api/sessions as the password; any user name, or none."}},
		{"account", SecurityScheme{Type: "userPassword", Description: "CONNECT with the account's user name and password. An address may show 30 passwords at once, and one more a second."}},
	}
}

func (b *builder) conversationMessages() {
	b.add("text", "Plain text", "The text of a message: any payload that does not begin with {, or whose content type is text/plain.", "text/plain",
		&Schema{Type: Types{"string"}, Title: "Plain text", Description: "The content of a message: 1 to 65,536 bytes of UTF-8 without NUL.", MinLength: 1, MaxLength: 64 << 10},
		[]Example{{"text", "mosquitto_pub -m 'Lunch at one?'", "Lunch at one?"}})
	b.message("messageCommand", "Send a message", "Stores a message and hands it to every member.", Publish,
		Example{"message", "With an idempotency key: sending it again is safe.", MessageCommand{Content: "Lunch at one, @bob?", ClientMsgID: exampleKey}},
		Example{"reply", "An answer, with everything said.", MessageCommand{Type: "message", Content: "Make it two.", ClientMsgID: exampleKey, ReplyTo: exampleMessage}},
	)
	b.message("editCommand", "Edit a message", "Gives one's own message another content. What it said before stays readable in its history.", Publish,
		Example{"edit", "", EditCommand{Type: "edit", MessageID: exampleMessage, Content: "Lunch at two, @bob?"}})
	b.message("deleteCommand", "Delete a message", "Takes a message back: its content is gone, its place in the log stays.", Publish,
		Example{"delete", "", DeleteCommand{Type: "delete", MessageID: exampleMessage}})
	b.message("reactionCommand", "React to a message", "Adds a reaction of one's own, or removes it.", Publish,
		Example{"add", "", ReactionCommand{Type: "reaction", MessageID: exampleMessage, Emoji: "👍", Op: "add"}},
		Example{"remove", "", ReactionCommand{Type: "reaction", MessageID: exampleMessage, Emoji: "👍", Op: "remove"}})

	b.message("messageEvent", "A message", "Somebody has sent a message.", Receive,
		Example{"message", "", MessageEvent{Type: "message", eventHead: head(42), ID: exampleMessage, ClientMsgID: exampleKey, Content: "Lunch at one, @bob?", Mentions: []ID{exampleOther}}},
		Example{"deleted", "Read later from the log, when it had been taken back already.", MessageEvent{
			Type: "message", eventHead: head(42), ID: exampleMessage, ClientMsgID: exampleKey, DeletedAt: exampleLater,
		}})
	b.message("editEvent", "A message was edited", "A message says something else now.", Receive,
		Example{"edit", "", EditEvent{Type: "edit", eventHead: head(43), MessageID: exampleMessage, Content: "Lunch at two, @bob?", Mentions: []ID{exampleOther}}})
	b.message("deleteEvent", "A message was deleted", "A message was taken back.", Receive,
		Example{"delete", "", DeleteEvent{Type: "delete", eventHead: head(44), MessageID: exampleMessage}})
	b.message("reactionEvent", "A reaction", "A reaction came or went.", Receive,
		Example{"add", "", ReactionEvent{Type: "reaction", eventHead: head(45), MessageID: exampleMessage, Emoji: "👍", Op: "add"}})
	b.message("conversationEvent", "The conversation changed", "It began, got another name, or its members changed.", Receive,
		Example{"created", "The first event of each log.", ConversationEvent{Type: "conversation", eventHead: head(1), Op: "created", Kind: "group", Title: "Rowing", UserIDs: []ID{exampleUser, exampleOther}}},
		Example{"renamed", "", ConversationEvent{Type: "conversation", eventHead: head(46), Op: "renamed", Title: "Rowing on Sundays"}},
		Example{"history", "", ConversationEvent{Type: "conversation", eventHead: head(47), Op: "history", History: "all"}},
		Example{"joined", "", ConversationEvent{Type: "conversation", eventHead: head(48), Op: "joined", UserIDs: []ID{exampleOther}}},
		Example{"role", "", ConversationEvent{Type: "conversation", eventHead: head(49), Op: "role", UserIDs: []ID{exampleOther}, Role: "admin"}},
		Example{"left", "", ConversationEvent{Type: "conversation", eventHead: head(50), Op: "left", UserIDs: []ID{exampleOther}}})
}

func (b *builder) signalMessages() {
	never := exampleLater
	b.message("typingSignal", "Say that one types", "Says that the user types, or has stopped.", Publish, Example{"typing", "", TypingSignal{true}}, Example{"stopped", "", TypingSignal{false}})
	b.message("typingEvent", "A member types", "A member types, or has stopped.", Receive,
		Example{"typing", "", TypingEvent{ConversationID: exampleConversation, UserID: exampleUser, Typing: true, ExpiresAt: exampleTime}})
	b.message("readUpTo", "Say how far one has read", "Everything up to a place has been read.", Publish, Example{"upTo", "", ReadUpTo{42}})
	b.message("readMessages", "Say which messages one has read", "The same, by the messages' ids.", Publish, Example{"messageIds", "", ReadMessages{[]ID{exampleMessage}}})
	b.message("readEvent", "A member has read", "A member has read up to a place; the user's own other devices hear it too.", Receive,
		Example{"read", "", ReadEvent{exampleConversation, exampleOther, 42, exampleLater}})
	b.message("deliveredEvent", "A member has received", "A member's devices have received up to a place.", Receive,
		Example{"delivered", "", DeliveredEvent{exampleConversation, exampleOther, 42, exampleTime}})
	b.message("presenceStatus", "Say how one is there", "What others see of the user. As the will of a connection: what they see when it ends without DISCONNECT.", Publish,
		Example{"away", "", PresenceStatus{"away"}}, Example{"invisible", "", PresenceStatus{"invisible"}})
	b.message("presenceEvent", "A contact's presence", "How a contact is there.", Receive,
		Example{"online", "", PresenceEvent{UserID: exampleOther, Status: "online"}},
		Example{"offline", "", PresenceEvent{UserID: exampleOther, Status: "offline", LastOnlineAt: &never}})
	b.message("publishError", "A publish was refused", "Why a publish was refused.", Receive,
		Example{"invalid", "", PublishError{
			Type: "about:blank", Title: "publish refused", Code: "invalid", Detail: "content: has 70000 bytes, limit 65536",
			Topic: "conv/" + string(exampleConversation) + "/messages", ClientMsgID: exampleKey,
		}})
}

func (b *builder) conversationTopics() {
	b.channel("messages", "conv/{conversationId}/messages", "Messages",
		"The log of a conversation. Members publish commands, and receive every event in the order of its `seq`, each at least once, whether they were there or not.", "conversations")
	b.operation("receiveCommand", "messages", Operation{
		Action: Publish, Title: "Publish a command", Summary: "Send, edit or delete a message, or react to one.", Bindings: qos(1),
		Description: "QoS 1 or 2; QoS 0 is taken, and not acknowledged. The acknowledgement comes after the commit; in MQTT 5 it has the user properties `id`, `seq` and `createdAt` of what was stored. " +
			"A refusal has a reason string and the user properties `code`, as in REST, and `field`, if one is at fault. " +
			"No acknowledgement means that it is not known whether it was stored: send it again with the same `clientMsgId`.",
		Reply: schemaOf(reflect.TypeFor[Stored](), false), ReasonCodes: ReasonCodes(),
	}, "text", "messageCommand", "editCommand", "deleteCommand", "reactionCommand")
	b.operation("sendEvent", "messages", Operation{
		Action: Receive, Title: "Receive events", Summary: "Everything that is stored in the log, as it is.", Bindings: qos(1),
		Description: "In `seq` order, without gaps, and one's own too. A session that survives gets what it missed when it is back.",
		Filters:     []string{"conv/{conversationId}/messages", "conv/+/messages", "conv/{conversationId}/+", "conv/{conversationId}/#", "conv/#"},
	}, "messageEvent", "editEvent", "deleteEvent", "reactionEvent", "conversationEvent")

	b.channel("typing", "conv/{conversationId}/typing", "Typing", "Who is typing. It is never stored, ends after 6 s unless it is said again, with the message, and with the connection.", "conversations")
	b.operation("receiveTyping", "typing", Operation{
		Action: Publish, Title: "Publish typing", Summary: "Say that the user types, or has stopped.", Bindings: qos(0),
		Description: "A device types in at most 20 conversations at once. Members hear of a user's typing at most every 2 s.", ReasonCodes: ReasonCodes(),
	}, "typingSignal")
	b.operation("sendTyping", "typing", Operation{
		Action: Receive, Title: "Receive typing", Summary: "Other members who type, or have stopped.", Bindings: qos(0),
		Description: "Who subscribes hears at once who types already.",
		Filters:     []string{"conv/{conversationId}/typing", "conv/+/typing", "conv/{conversationId}/+", "conv/{conversationId}/#", "conv/#"},
	}, "typingEvent")

	b.channel("reads", "conv/{conversationId}/reads", "Read receipts", "How far each member has read. It only moves forward.", "conversations")
	b.operation("receiveRead", "reads", Operation{
		Action: Publish, Title: "Publish what one has read", Summary: "Move one's own place forward.", Bindings: qos(1),
		Description: "QoS 0 or 1. A place that is not further than before changes nothing, and is no error.", ReasonCodes: ReasonCodes(),
	}, "readUpTo", "readMessages")
	b.operation("sendRead", "reads", Operation{
		Action: Receive, Title: "Receive read receipts", Summary: "Members who have read on, oneself included.", Bindings: qos(0),
		Description: "A signal: what was missed is in the `readBy` of a message, over REST.",
		Filters:     []string{"conv/{conversationId}/reads", "conv/+/reads", "conv/{conversationId}/+", "conv/{conversationId}/#", "conv/#"},
	}, "readEvent")

	b.channel("delivered", "conv/{conversationId}/delivered", "Delivery receipts", "How far the devices of each member have received. Only for those who ask for it by name: no wildcard in the last level covers it.", "conversations")
	b.operation("sendDelivered", "delivered", Operation{
		Action: Receive, Title: "Receive delivery receipts", Summary: "Members whose devices have received more.", Bindings: qos(0),
		Description: "A signal: what was missed is in the `deliveredTo` of a message, over REST.", Filters: []string{"conv/{conversationId}/delivered", "conv/+/delivered"},
	}, "deliveredEvent")
}

func (b *builder) userTopics() {
	b.channel("presence", "user/{userId}/presence", "Presence", "Who is there. A user is online while any of their devices is connected.", "users")
	b.operation("receivePresence", "presence", Operation{
		Action: Publish, Title: "Publish one's presence", Summary: "Say how one is there, on one's own topic only; also as the will.", Bindings: qos(1),
		Description: "QoS 0 or 1. Without it a user is online while connected, and offline soon after.", ReasonCodes: ReasonCodes(),
	}, "presenceStatus")
	b.operation("sendPresence", "presence", Operation{
		Action: Receive, Title: "Receive presence", Summary: "How contacts are there: people one shares a conversation with.", Bindings: qos(0),
		Description: "The current state comes right after SUBACK, as if it were retained.", Filters: []string{"user/{userId}/presence", "user/+/presence", "user/{userId}/+", "user/{userId}/#"},
	}, "presenceEvent")

	b.channel("errors", "user/{userId}/errors", "Errors", "Why a publish was refused, where the acknowledgement cannot say it: QoS 0, and MQTT 3.1.1.", "users")
	b.operation("sendError", "errors", Operation{
		Action: Receive, Title: "Receive errors", Summary: "Refusals of what this device has published.", Bindings: qos(0),
		Description: "One's own topic only; each device hears of its own.", Filters: []string{"user/{userId}/errors", "user/{userId}/+", "user/{userId}/#"},
	}, "publishError")
}

func (b *builder) deviceTopics() {
	b.add("devicePublication", "Anything", "Whatever devices tell each other: any bytes, with any content type.", "text/plain",
		&Schema{Type: Types{"string"}, Title: "Anything", Description: "Any bytes, none included, up to the Maximum Packet Size."},
		[]Example{{"state", "mosquitto_pub -t dev/lamp/state -m on", "on"}})
	b.channel("device", "dev/{clientId}/{topic}", "Device topics",
		"Plain MQTT among the devices of one user, at any number of levels up to 32: all QoS, retained messages, wills, shared subscriptions, subscription options and identifiers, request and response. "+
			"Names below `dev/` are private to each user: two users may both have a `dev/lamp/state`, and neither hears the other's. Everything else is closed, unless the operator opens it.", "devices")
	about := "A retained message is acknowledged after its commit, and survives restarts; anything else when it has been handed to the sessions, and it waits in memory for those that are away, " +
		"up to 1,000 publications and 1 MiB: what must not get lost belongs into a conversation."
	b.operation("receiveDevice", "device", Operation{
		Action: Publish, Title: "Publish to a device topic", Summary: "Tell one's other devices something, or leave it for those to come.", Bindings: qos(1),
		Description: "Any QoS. 0x10 says that nobody listens. " + about, ReasonCodes: ReasonCodes(),
	}, "devicePublication")
	b.operation("sendDevice", "device", Operation{
		Action: Receive, Title: "Receive from device topics", Summary: "What one's devices have published.", Bindings: qos(1),
		Description: "A wildcard means *mine*, here too.", Filters: []string{"dev/#", "dev/{clientId}/#", "dev/+/{topic}", "$share/{name}/dev/#"},
	}, "devicePublication")
}
