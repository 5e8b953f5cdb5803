package app_test

import (
	"slices"
	"testing"

	"github.com/parleymq/parley/asyncapi"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
)

// The reason codes that the AsyncAPI document names are those of the broker's table. The
// document cannot ask it: it knows chat alone.
func TestReasonCodesAreTheBrokers(t *testing.T) {
	t.Parallel()
	missing := chat.Codes()
	for _, r := range asyncapi.ReasonCodes() {
		if r.Chat == "" {
			continue
		}
		missing = slices.DeleteFunc(missing, func(c chat.Code) bool { return c == r.Chat })
		code, ok := broker.PubackReason(r.Chat)
		if int(code) != r.Code || ok != (r.Code != 0) || ok == (r.After != 0) {
			t.Errorf("%s: the document says %+v, the broker answers 0x%02x (%v)", r.Chat, r, code, ok)
		}
	}
	if len(missing) > 0 {
		t.Errorf("the document says nothing about %v", missing)
	}
}
