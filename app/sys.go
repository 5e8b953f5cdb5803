package app

import (
	"strconv"

	"github.com/parleymq/parley/topics"
)

// sys is what $SYS says of this process, by the names that Mosquitto has.
func (a *App) sys() []topics.SysValue {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	c := a.broker.Counts()
	return []topics.SysValue{
		{Topic: "version", Value: "parley version " + a.o.Version},
		{Topic: "clients/connected", Value: n(c.Connections)},
		{Topic: "messages/received", Value: n(c.Received)},
		{Topic: "bytes/received", Value: n(c.BytesReceived)},
		{Topic: "publish/messages/received", Value: n(c.PublishReceived)},
		{Topic: "publish/messages/sent", Value: n(c.PublishSent)},
		{Topic: "store/messages/bytes", Value: n(a.router.Waiting())},
	}
}
