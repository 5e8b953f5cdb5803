package mosquitto_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mochi-mqtt/server/v2/packets"

	"github.com/parleymq/parley/broker/brokertest"
	"github.com/parleymq/parley/chat"
	mosquitto "github.com/parleymq/parley/mosquitto-compat"
	"github.com/parleymq/parley/seedtest"
)

// noAccounts knows nobody.
type noAccounts struct{}

func (noAccounts) VerifyToken(context.Context, string) (chat.Principal, error) {
	return chat.Principal{}, &chat.Error{Code: chat.Unauthenticated}
}

func (noAccounts) VerifyPassword(context.Context, string, string) (chat.Principal, error) {
	return chat.Principal{}, &chat.Error{Code: chat.Unauthenticated}
}

func (noAccounts) HashSlot(context.Context) (func(), error) { return func() {}, nil }
func (noAccounts) Revoked(chat.Principal) bool              { return true }

// gate opens the lines as Parley does.
func gate(t testing.TB, conf string) (*mosquitto.Gate, *mosquitto.Rules, string) {
	t.Helper()
	name := file(t, conf)
	c, err := mosquitto.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	rules := mosquitto.Open(c, nil)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return rules.Gate(c.Listeners[0]), rules, name
}

// comesIn is what the hooks make of a CONNECT, by the gate.
func comesIn(t testing.TB, g *mosquitto.Gate, username, password string) (chat.Principal, bool) {
	t.Helper()
	a := g.Authenticator(noAccounts{}, false)
	if password == "" || username == "" {
		p, err := a.VerifyGuest(t.Context(), username)
		return p, err == nil
	}
	p, err := a.VerifyGuestPassword(t.Context(), username, password)
	if err != nil {
		p, err = a.VerifyPassword(t.Context(), username, password)
	}
	return p, err == nil
}

const listener = "listener 0 SOCKET\n"

// generator makes files at random. The same seed makes the same ones.
type generator struct{ *rand.Rand }

func (g generator) pick(list ...string) string { return list[g.IntN(len(list))] }

func (g generator) topic(levels ...string) string {
	var parts []string
	for range 1 + g.IntN(4) {
		parts = append(parts, g.pick(levels...))
	}
	return strings.Join(parts, "/")
}

var (
	names   = []string{"ann", "bob", "Käthe", "a b", "with/slash", "plus+", "eve"}
	clients = []string{"c1", "ann", "lamp 1", "c#", "a/b"}
)

// name makes a topic name that may be published to.
func (g generator) name() string {
	for {
		s := g.topic("a", "b", "", "home", "x y", "ann", "c1", "with", "slash")
		if g.IntN(8) == 0 {
			s = g.pick("$x", "$SYS", "$SYS/broker/connection", "$share/g", "$") + "/" + s
		}
		if s != "" {
			return s
		}
	}
}

// acl makes an ACL file.
func (g generator) acl() string {
	var b strings.Builder
	for range 3 + g.IntN(15) {
		end := g.pick("\n", "\n", "\r\n", "  \n", "\n\n# a comment\n#\n")
		switch g.IntN(5) {
		case 0:
			b.WriteString("user " + g.pick("", " ") + g.pick(names...) + end)
		default:
			what, levels := "topic", []string{"a", "b", "", "home", "x y", "+", "+"}
			if g.IntN(3) == 0 {
				what, levels = "pattern", append(levels, "%u", "%c", "%u%c", "%%c", "%", "a%u")
			}
			filter := g.topic(levels...)
			if g.IntN(3) == 0 {
				filter += "/#"
			}
			if g.IntN(10) == 0 {
				filter = g.pick("$x", "$SYS") + "/" + filter
			}
			if g.IntN(12) == 0 {
				filter = "#"
			}
			if strings.TrimSpace(filter) == "" {
				filter = "a"
			}
			access := g.pick("read ", "write ", "readwrite ", "deny ", "", "read  ")
			if access == "" && strings.Contains(filter, " ") {
				access = "readwrite " // else its first word would be one
			}
			b.WriteString(g.pick("", " ") + what + " " + access + filter + end)
		}
	}
	return b.String()
}

// TestACLLikeMosquitto compares what files made at random allow, with what the real one
// does: who may publish a topic, and who receives it.
func TestACLLikeMosquitto(t *testing.T) {
	t.Parallel()
	program(t)
	rounds := 12
	if s := os.Getenv("MOSQUITTO_ROUNDS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	seed := seedtest.Seed(t)
	var allowed, denied int
	for n := 0; n < rounds || allowed < 300; n++ { // some files allow next to nothing
		if n > 20*rounds {
			t.Fatalf("%d were allowed and %d denied: the files say too little", allowed, denied)
		}
		g := generator{seedtest.New(seed, n)}
		text := g.acl()
		// The one who sees and writes everything, to ask the others with.
		all := "user admin\ntopic readwrite #\n"
		for _, d := range []string{"$x", "$SYS", "$", "$share"} {
			all += "topic readwrite " + d + "/#\n"
		}
		conf := listener + "allow_anonymous true\nacl_file " + file(t, text+"\n"+all) + "\n"
		r, said := start(t, conf)
		if r == nil {
			t.Fatalf("seed %d, round %d: mosquitto does not start with\n%s\n%s", seed, n, text, said)
		}
		r.quiet()
		gt, _, _ := gate(t, conf)
		admin := r.dial(t)
		admin.MustConnect(brokertest.Connect{ClientID: "admin", Username: "admin"})
		topics := map[string]bool{}
		for range 25 {
			topics[g.name()] = true
		}
		sorted := slices.Sorted(maps.Keys(topics))
		for range 6 {
			u := brokertest.Connect{Username: g.pick(append(names, "")...), ClientID: g.pick(clients...)}
			who := chat.TopicUser{Principal: chat.GuestPrincipal("test", u.Username), ClientID: u.ClientID}
			c := r.dial(t)
			c.MustConnect(u)
			for _, filter := range []string{"#", "$x/#", "$SYS/#", "$/#"} {
				if codes := c.Subscribe(0, filter); codes[0] != 0 != !gt.MaySubscribe(who, filter) {
					t.Errorf("SUBSCRIBE %q: %v", filter, codes)
				}
			}
			for _, topic := range sorted {
				code := publish(c, topic, "by "+u.Username)
				got, want := gt.MayPublish(who, topic), code != packets.ErrNotAuthorized.Code
				if got != want {
					t.Errorf("seed %d, round %d: may %q with %q publish %q: %v, and mosquitto answers 0x%02x. The file:\n%s", seed, n, u.Username, u.ClientID, topic, got, code, text)
				}
				count(&allowed, &denied, want)
			}
			for i, topic := range sorted {
				publish(admin, topic, fmt.Sprintf("mark %d", i))
			}
			received := map[string]bool{}
			c.SendBytes([]byte{packets.Pingreq << 4, 0})
			for {
				pk, err := c.Recv(brokertest.Patience)
				if err != nil {
					t.Fatal(err)
				}
				if pk.FixedHeader.Type == packets.Pingresp {
					break
				}
				if i, ok := strings.CutPrefix(string(pk.Payload), "mark "); ok && pk.FixedHeader.Type == packets.Publish {
					if n, _ := strconv.Atoi(i); sorted[n] == pk.TopicName {
						received[pk.TopicName] = true
					}
				}
			}
			for _, topic := range sorted {
				if !gt.MayPublish(chat.TopicUser{Principal: chat.GuestPrincipal("test", "admin"), ClientID: "admin"}, topic) {
					continue // nobody may: $SYS and $share
				}
				if got := gt.MayReceive(who, topic); got != received[topic] {
					t.Errorf("seed %d, round %d: may %q with %q receive %q: %v, and with mosquitto %v. The file:\n%s", seed, n, u.Username, u.ClientID, topic, got, received[topic], text)
				}
				count(&allowed, &denied, received[topic])
			}
			c.Close()
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d decisions alike, %d of them allowed", allowed+denied, allowed)
}

func count(yes, no *int, b bool) {
	if b {
		*yes++
	} else {
		*no++
	}
}

// publish publishes at QoS 1 and returns the reason code, passing over what comes in.
func publish(c *brokertest.Client, topic, payload string) byte {
	id := c.PublishAsync(1, topic, payload)
	return c.AwaitAck(packets.Puback, id).Code
}

// TestACLFilesLikeMosquitto compares which ACL files are taken.
func TestACLFilesLikeMosquitto(t *testing.T) {
	t.Parallel()
	program(t)
	for _, tt := range []struct{ text, differs string }{
		{"", ""},
		{"\n\n\r\n \n\t\n", ""},
		{"# only\n#comments", ""},
		{"user ann\r\ntopic read a/#\r\n", ""},
		{"user ann\ntopic read a", ""},
		{"user  ann  \ntopic  read  a  b  ", ""},
		{"topic read", ""},
		{"topic", ""},
		{"pattern", ""},
		{"user", ""},
		{"user \t ", ""},
		{"topic reed a", ""},
		{"topic deny", ""},
		{"topic a/#/b", ""},
		{"topic read a/b#", ""},
		{"topic write +a", ""},
		{"topic a/+/+/#", ""},
		{"topic #", ""},
		{"topic " + strings.Repeat("/", 200), ""},
		{"topic " + strings.Repeat("/", 201), ""},
		{"\ttopic read a", ""},
		{"  topic read a", ""},
		{" # comment", ""},
		{"Topic a", ""},
		{"topics a", ""},
		{"\ufeffuser ann", ""},
		{"\ufeff# comment", ""},
		{"user ann\ntopic \xff\xfe", ""},
		{"topic read\ta", ""},
		{"nonsense", ""},
		{"topic read " + strings.Repeat("a", 70000), ""},
		{"user " + strings.Repeat("a", 70000), ""},
		{"pattern write nobody/in/particular", ""},
		{"topic a\x00junk that is not seen", "NUL in a file"},
	} {
		name := file(t, tt.text)
		r, said := start(t, listener+"acl_file "+name)
		_, err := mosquitto.ParseACL([]byte(tt.text))
		if r != nil {
			r.quiet()
		}
		compare(t, fmt.Sprintf("ACL file %.60q", tt.text), tt.differs, r != nil, err == nil, fmt.Sprintf("%v; mosquitto: %s", err, said))
	}
}

// compare reports whether the two decide alike, or differently by name.
func compare(t *testing.T, what, differs string, theirs, ours bool, why string) {
	t.Helper()
	switch {
	case differs == "" && theirs != ours:
		t.Errorf("%s: mosquitto takes it: %v, Parley: %v (%s)", what, theirs, ours, why)
	case differs != "" && theirs == ours:
		t.Errorf("%s: both say %v; %q is no difference any more", what, ours, differs)
	case differs != "" && !strings.Contains(strings.ToLower(divergences(t)), strings.ToLower(differs)):
		t.Errorf("%s: DIVERGENCES.md has no entry %q", what, differs)
	}
}

// TestPasswordsLikeMosquitto compares who comes in, by the lines of a password file
// and by what a client shows.
func TestPasswordsLikeMosquitto(t *testing.T) {
	t.Parallel()
	program(t)
	const sha512, pbkdf2 = "$6$x7dZTLuNOyNHqxVw$Gn+p44Qzkfh0gIQILHpa5VvH0ajei1Ff0GWyfjlq9t5pIVKwVCH5pc1zFPeL89TIvr0abBfLAPbyN+qI7uVF+A==", "$7$101$4H6Sz69oQZ2HyoTL$PtSM29f+EyO5dDNE6yvlxVq1jubIS0KXwPQcXRXCLTg6FrsGG2ivV61r+u4Sn1yYwGjsvuoroRHCTKFjbwRvxA=="
	long := strings.Repeat("n", 300)
	text := strings.Join([]string{
		"ann:" + sha512, "bob:" + pbkdf2, "  blank\t: " + sha512 + " ", ":colon:" + sha512, "more:" + sha512 + ":rest", "#not:" + sha512, " #name:" + sha512,
		"plain:secret", "none:", "cut:$6$", "old:$5$" + sha512[3:], "zero:$7$0$" + pbkdf2[7:], "Jürgen:" + sha512 + "\r", long + ":" + pbkdf2, "no colon",
		"twice:" + pbkdf2, "twice:" + sha512[:10] + "AAAA" + sha512[14:], "short:" + sha512[:40], "\ufeffbom:" + sha512, "last:" + sha512,
	}, "\n")
	users := []string{"ann", "bob", "blank", "colon", "more", "#not", "not", "#name", "plain", "none", "cut", "old", "zero", "Jürgen", long, "no colon", "twice", "short", "bom", "\ufeffbom", "last", "Ann", "nobody", ""}
	for _, anonymous := range []string{"true", "false"} {
		for _, passwords := range []string{"password_file " + file(t, text) + "\n", ""} {
			conf := listener + "allow_anonymous " + anonymous + "\n" + passwords
			r, said := start(t, conf)
			if r == nil {
				t.Fatal(said)
			}
			r.quiet()
			g, _, _ := gate(t, conf)
			for _, u := range users {
				for _, password := range []string{"secret", "wrong", ""} {
					for _, v := range []byte{5, 4} {
						if v == 4 && u == "" && password != "" {
							continue // MQTT 3.1.1 does not let it [MQTT-3.1.2-22]
						}
						c := r.dial(t)
						pk := c.Connect(brokertest.Connect{Version: v, ClientID: "x", Username: u, Password: password})
						c.Close()
						if _, ours := comesIn(t, g, u, password); ours != (pk.ReasonCode == 0) {
							t.Errorf("allow_anonymous %s, password file %v: user %.20q with %q, MQTT %d: %v, and mosquitto answers 0x%02x", anonymous, passwords != "", u, password, v, ours, pk.ReasonCode)
						}
					}
				}
			}
		}
	}
}

// TestReloadLikeMosquitto reads changed files on SIGHUP: who is not in them any more,
// or has another password, is disconnected; the others stay, by the new rules.
func TestReloadLikeMosquitto(t *testing.T) {
	t.Parallel()
	program(t)
	const first, second = "$6$x7dZTLuNOyNHqxVw$Gn+p44Qzkfh0gIQILHpa5VvH0ajei1Ff0GWyfjlq9t5pIVKwVCH5pc1zFPeL89TIvr0abBfLAPbyN+qI7uVF+A==", "$6$nb9Q43FLCcYOqXdD$V1DIxGSVzHbzCPiDL3LDmwVEFI5HCKnG6/6mEBR3R2LgWMUK/r1ocusCTBakFvTE7ll9+sTmV5ic6sWDuhwwgA==" // of "secret" and "other"
	passwords, acl := file(t, "ann:"+first+"\nbob:"+first+"\neve:"+first+"\n"), file(t, "user ann\ntopic a\n")
	conf := listener + "allow_anonymous true\npassword_file " + passwords + "\nacl_file " + acl + "\n"
	r, said := start(t, conf)
	if r == nil {
		t.Fatal(said)
	}
	g, rules, confFile := gate(t, strings.Replace(conf, "SOCKET", filepath.Join(t.TempDir(), "s"), 1))
	auth := g.Authenticator(noAccounts{}, false)
	type client struct {
		*brokertest.Client
		p chat.Principal
	}
	all := map[string]client{}
	for _, u := range []string{"ann", "bob", "eve", ""} {
		password := "secret"
		if u == "" {
			password = ""
		}
		p, ok := comesIn(t, g, u, password)
		if !ok || auth.Revoked(p) {
			t.Fatalf("%q is not let in", u)
		}
		c := r.dial(t)
		c.MustConnect(brokertest.Connect{ClientID: "c" + u, Username: u, Password: password})
		all[u] = client{c, p}
	}
	may := func(u, topic string) (theirs, ours bool) {
		return publish(all[u].Client, topic, "x") != packets.ErrNotAuthorized.Code, g.MayPublish(chat.TopicUser{Principal: all[u].p, ClientID: "c" + u}, topic)
	}
	if theirs, ours := may("ann", "a"); !theirs || !ours {
		t.Fatalf("before: %v, %v", theirs, ours)
	}
	write(t, passwords, "ann:"+first+"\nbob:"+second+"\n")
	write(t, acl, "user ann\ntopic b\n")
	r.reload(t)
	for _, u := range []string{"bob", "eve"} { // another password, and gone
		if pk, err := all[u].Recv(brokertest.Patience); err == nil && pk.FixedHeader.Type != packets.Disconnect {
			t.Errorf("mosquitto sends %s: %s", u, brokertest.Describe(pk))
		}
	}
	if err := rules.Reload(); err != nil {
		t.Fatal(err)
	}
	for u, want := range map[string]bool{"ann": false, "bob": true, "eve": true, "": false} {
		if got := auth.Revoked(all[u].p); got != want {
			t.Errorf("after: %q is revoked: %v", u, got)
		}
	}
	all["ann"].Ping()
	all[""].Ping()
	for topic, want := range map[string]bool{"a": false, "b": true} {
		if theirs, ours := may("ann", topic); theirs != want || ours != want {
			t.Errorf("after: ann on %q: mosquitto %v, Parley %v, want %v", topic, theirs, ours, want)
		}
	}

	// A file with a fault changes nothing at all, neither does one that is gone.
	write(t, acl, "user eve\ntopic reed #\n")
	write(t, passwords, "eve:"+first+"\n")
	if err := rules.Reload(); err == nil || !strings.Contains(err.Error(), `access is "reed"`) {
		t.Errorf("a faulty ACL file: %v", err)
	}
	if _, ours := may("ann", "b"); !ours || auth.Revoked(all["ann"].p) {
		t.Error("a faulty ACL file has changed something")
	}
	write(t, acl, "user ann\n")
	write(t, passwords, "ann:secret\n")
	if err := rules.Reload(); err == nil || !strings.Contains(err.Error(), ":1: ") {
		t.Errorf("a password that is not hashed: %v", err)
	}
	if err := os.Remove(passwords); err != nil {
		t.Fatal(err)
	}
	if err := rules.Reload(); err == nil {
		t.Error("a missing password file is no fault")
	}
	write(t, passwords, "ann:"+first+"\n")
	write(t, confFile, "allow_anonymous perhaps\n")
	if err := rules.Reload(); err == nil || !strings.Contains(err.Error(), "want true or false") {
		t.Errorf("a faulty mosquitto.conf: %v", err)
	}
	if _, ours := may("ann", "b"); !ours || auth.Revoked(all["ann"].p) {
		t.Error("a fault has changed something")
	}
	write(t, confFile, strings.Replace(strings.Replace(conf, "SOCKET", "/elsewhere", 1), "anonymous true", "anonymous false", 1))
	if err := rules.Reload(); err != nil {
		t.Error(err)
	}
	if !auth.Revoked(all[""].p) {
		t.Error("anonymous clients are not allowed any more, and stay")
	}
}
