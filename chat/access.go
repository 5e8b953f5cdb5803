package chat

// TopicAccess authorizes the use of device topics: all topics outside conv/, user/ and
// $SYS, whose rules are fixed. Its methods do not block; they are called for every packet,
// from many goroutines. Decisions may change at any time, as when a file is reloaded.
type TopicAccess interface {
	// MayPublish reports whether the device may publish to a topic name.
	MayPublish(d TopicUser, topic string) bool
	// MaySubscribe reports whether the device may hold a topic filter, given without
	// $share/{name}/. The filter may cover more than the device may read: MayReceive
	// decides about each publication.
	MaySubscribe(d TopicUser, filter string) bool
	// MayReceive reports whether the device, which holds a filter that covers the topic
	// name, may be sent a publication to it.
	MayReceive(d TopicUser, topic string) bool
}

// TopicUser is a device that uses device topics.
type TopicUser struct {
	Principal Principal
	ClientID  string      // as the client sent it, or was assigned
	Access    TopicAccess // of the listener that the device uses; nil: the server's
}
