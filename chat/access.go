package chat

// TopicAccess decides who may use which device topics: all topics outside conv/,
// user/ and $SYS, whose rules are the contract's and not up for configuration. None
// of its methods blocks; each is called for every packet, from many goroutines. A
// decision may change between two calls (a file was read again).
type TopicAccess interface {
	// MayPublish reports whether the device may publish to a topic name.
	MayPublish(d TopicUser, topic string) bool
	// MaySubscribe reports whether the device may hold a topic filter, without
	// $share/{name}/. It may hold one that covers more than it may read: MayReceive
	// decides about each publication.
	MaySubscribe(d TopicUser, filter string) bool
	// MayReceive reports whether a publication to a topic name may be sent to the
	// device, which holds a filter that covers it.
	MayReceive(d TopicUser, topic string) bool
}

// TopicUser is who asks for a device topic.
type TopicUser struct {
	Principal Principal
	ClientID  string      // as the client sent it, or was assigned
	Access    TopicAccess // of the listener by which the device has come; nil: the process's
}
