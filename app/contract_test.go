package app_test

import (
	"slices"
	"testing"

	"github.com/parleymq/parley/asyncapi"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
)

// The reason codes that the AsyncAPI document names are those of the broker's table.
func TestReasonCodesAreTheBrokers(t *testing.T) {
	t.Parallel()
	for _, o := range asyncapi.Read().Operations {
		if o.Value.Action != asyncapi.Publish {
			continue
		}
		missing := chat.Codes()
		for _, r := range o.Value.ReasonCodes {
			if r.Problem == "" {
				continue
			}
			missing = slices.DeleteFunc(missing, func(c chat.Code) bool { return c == r.Problem })
			code, ok := broker.PubackReason(r.Problem)
			if int(code) != r.Code || ok != (r.Code != 0) || ok == (r.Disconnect != 0) {
				t.Errorf("%s: %s: the document says %+v, the broker answers 0x%02x (%v)", o.Name, r.Problem, r, code, ok)
			}
		}
		if len(missing) > 0 {
			t.Errorf("%s: the document says nothing about %v", o.Name, missing)
		}
	}
}
