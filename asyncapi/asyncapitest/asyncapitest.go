// Package asyncapitest checks payloads against the AsyncAPI document. For tests only.
package asyncapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/parleymq/parley/asyncapi"
)

// Checker checks payloads against a document. It is safe for concurrent use.
type Checker struct{ operations []operation }

type operation struct {
	address  []string
	action   string
	messages []message
}

type message struct {
	name   string
	text   bool
	kind   string // the one value that "type" may have; "": any
	schema *jsonschema.Schema
}

// New reads a document, as /asyncapi.json serves it.
func New(document []byte) (*Checker, error) {
	var d struct {
		Channels   map[string]struct{ Address string }
		Operations map[string]struct {
			Action   string
			Channel  asyncapi.Ref
			Messages []asyncapi.Ref
		}
		Components struct {
			Messages map[string]struct {
				ContentType string
				Payload     asyncapi.Ref
			}
			Schemas map[string]struct {
				Properties struct{ Type struct{ Const string } }
			}
		}
	}
	if err := json.Unmarshal(document, &d); err != nil {
		return nil, err
	}
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return nil, err
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft7)
	compiler.AssertFormat()
	if err := compiler.AddResource("asyncapi.json", resource); err != nil {
		return nil, err
	}
	c := &Checker{}
	for name, o := range d.Operations {
		op := operation{address: strings.Split(d.Channels[o.Channel.Name()].Address, "/"), action: o.Action}
		for _, ref := range o.Messages {
			m, ok := d.Components.Messages[ref.Name()]
			if !ok {
				return nil, fmt.Errorf("operation %s: there is no message %q", name, ref.Name())
			}
			schema, err := compiler.Compile("asyncapi.json" + m.Payload.Ref)
			if err != nil {
				return nil, fmt.Errorf("message %s: %w", ref.Name(), err)
			}
			op.messages = append(op.messages, message{
				name: ref.Name(), text: m.ContentType == "text/plain", kind: d.Components.Schemas[m.Payload.Name()].Properties.Type.Const, schema: schema,
			})
		}
		c.operations = append(c.operations, op)
	}
	return c, nil
}

// Check reports what is wrong with a payload on a topic, or nil. The action is the
// server's: asyncapi.Publish for what it has taken from a client, asyncapi.Receive
// for what it has sent.
func (c *Checker) Check(action, topic, contentType string, payload []byte) error {
	for _, op := range c.operations {
		if op.action == action && op.matches(topic) {
			if err := op.check(contentType, payload); err != nil {
				return fmt.Errorf("%s on %s is not what the AsyncAPI document says: %.300q: %w", action, topic, payload, err)
			}
			return nil
		}
	}
	return fmt.Errorf("%s on %s: the AsyncAPI document has no such operation", action, topic)
}

func (o *operation) matches(topic string) bool {
	levels := strings.Split(topic, "/")
	if len(levels) != len(o.address) {
		return false
	}
	for i, level := range o.address {
		if level != levels[i] && level[0] != '{' {
			return false
		}
	}
	return true
}

// check tries the messages that the payload may be: of those of its type if it names
// one, so that what is wrong is said about the right one.
func (o *operation) check(contentType string, payload []byte) error {
	var value any = string(payload)
	payload = bytes.TrimPrefix(payload, []byte("\ufeff"))
	trimmed := bytes.TrimLeft(payload, " \t\r\n")
	text := strings.HasPrefix(contentType, "text/plain") || !bytes.HasPrefix(trimmed, []byte("{")) || !json.Valid(payload)
	if !text || !o.hasText() {
		var err error
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(payload)); err != nil {
			return err
		}
		text = false
	}
	kind := ""
	if object, ok := value.(map[string]any); ok {
		kind, _ = object["type"].(string)
	}
	var failures []string
	for _, m := range o.messages {
		if m.text != text || kind != "" && m.kind != "" && m.kind != kind {
			continue
		}
		err := m.schema.Validate(value)
		if err == nil {
			return nil
		}
		failures = append(failures, m.name+": "+err.Error())
	}
	if len(failures) == 0 {
		return fmt.Errorf("no message has the type %q", kind)
	}
	return fmt.Errorf("%s", strings.Join(failures, "; "))
}

func (o *operation) hasText() bool {
	for _, m := range o.messages {
		if m.text {
			return true
		}
	}
	return false
}
