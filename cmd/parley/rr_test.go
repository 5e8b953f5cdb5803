package main_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/parleymq/parley/programtest"
	"github.com/parleymq/parley/store/storetest"
)

// A question and its answer between two of a user's devices, with mosquitto_rr: the
// response topic and the correlation data reach the one that answers.
func TestMosquittoRR(t *testing.T) {
	t.Parallel()
	rr := programtest.Path(t, "mosquitto_rr")
	programtest.Path(t, "mosquitto_pub")
	stdbuf := programtest.Path(t, "stdbuf")
	s := serve(t, []string{"DATABASE_URL=" + storetest.DSN(t)})
	s.user(t, "ann")
	ann := []string{"-V", "5", "-u", "ann", "-P", password, "-q", "1"}

	sub := s.command(t, "mosquitto_sub", append(ann, "-i", "lamp", "-t", "dev/lamp/ask", "-C", "1", "-d", "-F", `{"to":"%R","about":"%D","text":"%p"}`)...)
	sub.Path, sub.Args = stdbuf, append([]string{"stdbuf", "-oL"}, sub.Args...)
	lamp := newListener(sub)
	lamp.start(t)

	phone := exec.CommandContext(t.Context(), rr, append(s.command(t, "mosquitto_rr", append(ann, "-i", "phone", "-t", "dev/lamp/ask", "-e", "dev/phone/answers", "-D", "publish", "correlation-data", "42", "-m", "are you on?")...).Args[1:], "-W", "30")...)
	type result struct {
		out []byte
		err error
	}
	answered := make(chan result, 1)
	go func() { // ends with the program
		out, err := phone.CombinedOutput()
		answered <- result{out, err}
	}()
	if asked, want := lamp.Line(t), `{"to":"dev/phone/answers","about":"42","text":"are you on?"}`; asked != want {
		t.Errorf("the lamp was asked %s, want %s", asked, want)
	}
	lamp.Wait(t)
	s.mosquitto(t, "mosquitto_pub", append(ann, "-t", "dev/phone/answers", "-D", "publish", "correlation-data", "42", "-m", "I am")...)
	if r := <-answered; r.err != nil || strings.TrimSpace(string(r.out)) != "I am" {
		t.Errorf("mosquitto_rr: %v, %s", r.err, r.out)
	}
}
