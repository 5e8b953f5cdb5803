package asyncapi

import (
	"reflect"
	"slices"
	"strings"
)

// Document is an AsyncAPI 3.0 document, as far as Parley needs one.
type Document struct {
	AsyncAPI           string              `json:"asyncapi"`
	ID                 string              `json:"id"`
	Info               Info                `json:"info"`
	DefaultContentType string              `json:"defaultContentType"`
	Servers            Ordered[Server]     `json:"servers"`
	Channels           Ordered[*Channel]   `json:"channels"`
	Operations         Ordered[*Operation] `json:"operations"`
	Components         Components          `json:"components"`
}

// Info says what the document is about.
type Info struct {
	Title       string `json:"title"`
	Version     string `json:"version"`
	Description string `json:"description"`
	Tags        []Tag  `json:"tags"`
}

// Tag is a subject.
type Tag struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
}

// Server is a way to connect.
type Server struct {
	Host            string            `json:"host"`
	Pathname        string            `json:"pathname,omitempty"`
	Protocol        string            `json:"protocol"`
	ProtocolVersion string            `json:"protocolVersion"`
	Title           string            `json:"title"`
	Description     string            `json:"description"`
	Variables       Ordered[Variable] `json:"variables"`
	Security        []Ref             `json:"security"`
	Bindings        *Bindings         `json:"bindings,omitempty"`
}

// Variable is a part of a server's address.
type Variable struct {
	Default     string `json:"default"`
	Description string `json:"description"`
}

// Channel is a topic.
type Channel struct {
	Address     string         `json:"address"`
	Title       string         `json:"title"`
	Description string         `json:"description"`
	Parameters  Ordered[Param] `json:"parameters"`
	Messages    Ordered[Ref]   `json:"messages"`
	Tags        []Tag          `json:"tags"`
}

// Param is a level of a topic that may be anything of a kind. Its values are texts,
// which AsyncAPI 3.0 describes by examples only.
type Param struct {
	Description string   `json:"description"`
	Examples    []string `json:"examples"`
}

// Operation is what happens on a channel, as the server sees it.
type Operation struct {
	Action      string    `json:"action"` // "receive": clients publish; "send": subscribers receive
	Channel     Ref       `json:"channel"`
	Title       string    `json:"title"`
	Summary     string    `json:"summary"`
	Description string    `json:"description"`
	Security    []Ref     `json:"security,omitempty"`
	Bindings    *Bindings `json:"bindings"`
	Messages    []Ref     `json:"messages"`

	Reply       *Schema      `json:"x-parley-acknowledgement,omitempty"` // user properties of PUBACK and PUBREC in MQTT 5
	ReasonCodes []ReasonCode `json:"x-parley-reason-codes,omitempty"`    // what PUBACK and PUBREC may say
	Filters     []string     `json:"x-parley-filters,omitempty"`         // what SUBSCRIBE takes for it
}

// Bindings are what is particular to MQTT.
type Bindings struct {
	MQTT MQTTBinding `json:"mqtt"`
}

// MQTTBinding is AsyncAPI's binding for MQTT, of a server, an operation or a message.
type MQTTBinding struct {
	QoS            *int   `json:"qos,omitempty"`
	Retain         *bool  `json:"retain,omitempty"`
	ContentType    string `json:"contentType,omitempty"`
	PayloadFormat  *int   `json:"payloadFormatIndicator,omitempty"`
	KeepAlive      int    `json:"keepAlive,omitempty"`
	MaximumPacket  int    `json:"maximumPacketSize,omitempty"`
	SessionExpiry  int    `json:"sessionExpiryInterval,omitempty"`
	BindingVersion string `json:"bindingVersion"`
}

// Components are what channels and operations refer to.
type Components struct {
	Messages        Ordered[*Message]       `json:"messages"`
	Schemas         Ordered[*Schema]        `json:"schemas"`
	SecuritySchemes Ordered[SecurityScheme] `json:"securitySchemes"`
}

// SecurityScheme is a way to say who one is.
type SecurityScheme struct {
	Type        string `json:"type"`
	In          string `json:"in,omitempty"`
	Description string `json:"description"`
}

// Message is a payload with what it is for.
type Message struct {
	Name        string    `json:"name"`
	Title       string    `json:"title"`
	Summary     string    `json:"summary"`
	ContentType string    `json:"contentType"`
	Payload     Ref       `json:"payload"`
	Bindings    *Bindings `json:"bindings,omitempty"`
	Examples    []Example `json:"examples"`
}

// Example is a payload as it could be.
type Example struct {
	Name    string `json:"name"`
	Summary string `json:"summary,omitempty"`
	Payload any    `json:"payload"`
}

// Ref points to another place in the document.
type Ref struct {
	Ref string `json:"$ref"`
}

// Name is the last part of what the reference points to.
func (r Ref) Name() string { return r.Ref[strings.LastIndexByte(r.Ref, '/')+1:] }

// Ordered is an object whose members keep their order.
type Ordered[T any] []Member[T]

// Member is one of them.
type Member[T any] struct {
	Name  string
	Value T
}

// MarshalJSON implements json.Marshaler.
func (o Ordered[T]) MarshalJSON() ([]byte, error) {
	return marshalOrdered(len(o), func(i int) (string, any) { return o[i].Name, o[i].Value })
}

// Get returns the member of that name, or a zero T.
func (o Ordered[T]) Get(name string) T {
	i := slices.IndexFunc(o, func(m Member[T]) bool { return m.Name == name })
	if i < 0 {
		var zero T
		return zero
	}
	return o[i].Value
}

// JSON returns the document's bytes.
func (d *Document) JSON() ([]byte, error) { return marshal(d) }

// Directions of a message, as the client sees them.
const (
	Publish = "receive" // the server receives
	Receive = "send"    // the server sends
)

// builder collects the document's parts.
type builder struct{ d *Document }

// message adds a message, and the schema of its payload, made from the type of its
// first example.
func (b *builder) message(name, title, summary, action string, examples ...Example) {
	t := reflect.TypeOf(examples[0].Payload)
	s := schemaOf(t, action == Publish)
	s.Title, s.Description = title, summary
	if t == reflect.TypeFor[MessageCommand]() {
		s.AnyOf = []Schema{{Required: []string{"content"}}, {Required: []string{"attachments"}}}
	}
	b.add(name, title, summary, "application/json", s, examples)
}

func (b *builder) add(name, title, summary, contentType string, s *Schema, examples []Example) {
	schema := strings.ToUpper(name[:1]) + name[1:]
	b.d.Components.Schemas = append(b.d.Components.Schemas, Member[*Schema]{schema, s})
	b.d.Components.Messages = append(b.d.Components.Messages, Member[*Message]{name, &Message{
		Name: name, Title: title, Summary: summary, ContentType: contentType, Payload: Ref{"#/components/schemas/" + schema},
		Examples: examples,
	}})
}

// channel adds a topic; its messages follow with operation.
func (b *builder) channel(name, address, title, description, tag string) {
	c := &Channel{Address: address, Title: title, Description: description, Tags: []Tag{{Name: tag}}}
	for _, level := range strings.Split(address, "/") {
		switch level {
		case "{conversationId}":
			c.Parameters = append(c.Parameters, Member[Param]{"conversationId", Param{"A conversation that one is in: its id in lower-case text.", []string{string(exampleConversation)}}})
		case "{clientId}":
			c.Parameters = append(c.Parameters, Member[Param]{"clientId", Param{"A device, by its client id or any other name.", []string{"lamp"}}})
		case "{topic}":
			c.Parameters = append(c.Parameters, Member[Param]{"topic", Param{"One level or several.", []string{"state"}}})
		case "{userId}":
			c.Parameters = append(c.Parameters, Member[Param]{"userId", Param{"A user: their id in lower-case text.", []string{string(exampleUser)}}})
		}
	}
	b.d.Channels = append(b.d.Channels, Member[*Channel]{name, c})
}

// operation adds what happens on a channel.
func (b *builder) operation(name, channel string, o Operation, messages ...string) {
	no := false
	o.Channel = Ref{"#/channels/" + channel}
	o.Bindings.MQTT.BindingVersion = bindingVersion
	if channel != "device" { // where clients may
		o.Bindings.MQTT.Retain = &no
	}
	c := b.d.Channels.Get(channel)
	for _, m := range messages {
		if c.Messages.Get(m) == (Ref{}) { // else both directions carry it
			c.Messages = append(c.Messages, Member[Ref]{m, Ref{"#/components/messages/" + m}})
		}
		o.Messages = append(o.Messages, Ref{"#/channels/" + channel + "/messages/" + m})
	}
	b.d.Operations = append(b.d.Operations, Member[*Operation]{name, &o})
}

const bindingVersion = "0.2.0"

func qos(n int) *Bindings { return &Bindings{MQTTBinding{QoS: &n}} }
