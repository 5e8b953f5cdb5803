package mosquitto

import (
	"strings"
	"testing"
)

// Made by mosquitto_passwd of 2.0.11, with -H sha512 and -H sha512-pbkdf2.
const (
	lampSHA512 = "$6$x7dZTLuNOyNHqxVw$Gn+p44Qzkfh0gIQILHpa5VvH0ajei1Ff0GWyfjlq9t5pIVKwVCH5pc1zFPeL89TIvr0abBfLAPbyN+qI7uVF+A=="
	lampPBKDF2 = "$7$101$4H6Sz69oQZ2HyoTL$PtSM29f+EyO5dDNE6yvlxVq1jubIS0KXwPQcXRXCLTg6FrsGG2ivV61r+u4Sn1yYwGjsvuoroRHCTKFjbwRvxA=="
)

func TestPasswordHashes(t *testing.T) {
	t.Parallel()
	p, faults := ParsePasswords([]byte("a:" + lampSHA512 + "\nb:" + lampPBKDF2 + "\r\n"))
	if len(faults) != 0 {
		t.Fatal(faults)
	}
	for _, name := range []string{"a", "b"} {
		if c := p.users[name]; !c.verify("secret") || c.verify("Secret") || c.verify("") || c.verify("secret\x00") {
			t.Errorf("%s is not verified as mosquitto_passwd has hashed it", name)
		}
	}
	if p.users["a"].fingerprint() == p.users["b"].fingerprint() {
		t.Error("two credentials have one mark")
	}
}

// What a line of a password file means.
func TestPasswordLines(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		line string
		user string // "": nobody
		bad  string // part of what is said of it
	}{
		{"ann:" + lampSHA512, "ann", ""},
		{"  ann\t: " + lampSHA512 + "  ", "ann", ""},
		{":ann:" + lampSHA512, "ann", ""},
		{"ann:" + lampSHA512 + ":rest", "ann", ""},
		{"Jürgen Groß:" + lampSHA512, "Jürgen Groß", ""},
		{"# ann:" + lampSHA512, "", ""},
		{"#ann:" + lampSHA512, "", ""},
		{" #ann:" + lampSHA512, "#ann", ""},
		{"nothing here", "", ""},
		{"ann:", "", "no hash"},
		{"ann:secret", "", "neither $6$ nor $7$"},
		{"ann:$5$abc$def", "", "neither $6$ nor $7$"},
		{"ann:$6$", "", "incomplete"},
		{"ann:$6$short$short", "", "base64"},
		{"ann:$7$0$" + lampPBKDF2[len("$7$101$"):], "", "iterations"},
		{"ann:$7$1000001$" + lampPBKDF2[len("$7$101$"):], "", "1 to 1000000"},
		{"ann:$7$x$" + lampPBKDF2[len("$7$101$"):], "", "iterations"},
		{"ann:" + lampSHA512[:len(lampSHA512)-8], "", "base64"},
		{"an\x00n:" + lampSHA512, "", "NUL"},
		{strings.Repeat("n", 65536) + ":" + lampSHA512, "", "65535"},
		{"\ufeffann:" + lampSHA512, "\ufeffann", ""}, // a byte order mark is part of the name, as in Mosquitto
	} {
		p, faults := ParsePasswords([]byte(tt.line))
		switch {
		case tt.bad != "" && (len(faults) != 1 || !strings.Contains(faults[0].Text, tt.bad)):
			t.Errorf("%.60q: faults %v, want %q", tt.line, faults, tt.bad)
		case tt.bad == "" && len(faults) != 0:
			t.Errorf("%.60q: %v", tt.line, faults)
		case tt.user == "" && p.Len() != 0 || tt.user != "" && p.users[tt.user] == nil:
			t.Errorf("%.60q: users %v, want %q", tt.line, p.users, tt.user)
		}
	}
	p, faults := ParsePasswords([]byte("ann:" + lampSHA512 + "\nann:" + lampPBKDF2))
	if len(faults) != 1 || faults[0].Line != 2 || p.users["ann"].iterations != 101 {
		t.Errorf("of two lines about one name: %v, %+v", faults, p.users["ann"])
	}
}

func FuzzPasswords(f *testing.F) {
	f.Add([]byte("ann:" + lampSHA512 + "\nbob:" + lampPBKDF2))
	f.Add([]byte("a:$7$1$AAAA$\n:::\n#"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, _ := ParsePasswords(text)
		for name, c := range p.users {
			if name == "" || name != trimBlanks(name) || strings.ContainsAny(name, ":\x00\n") || c.iterations > maxIterations || c.iterations < 0 {
				t.Errorf("user %q, %d iterations", name, c.iterations)
			}
		}
	})
}

// What is wrong with an ACL file, and where.
func TestACLFaults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"user":                          "line 1: user: the name is missing",
		"user   \t":                     "name is missing",
		"topic":                         "topic is empty",
		"topic reed a/b":                `access is "reed"`,
		"topic read a/#/b":              "wildcard",
		"topic a+":                      "wildcard",
		"topic read #a":                 "wildcard",
		"\ttopic read a":                "want user, topic or pattern",
		" # a comment":                  "want user, topic or pattern",
		"# fine\n\nuser ann\ntopics a":  "line 4",
		"\ufeffuser ann":                "want user",
		"topic a" + string(rune(0)):     "NUL",
		"pattern read":                  "", // the topic "read"
		"topic read " + long(201) + "":  "levels",
		"topic read " + long(200) + "x": "",
		"user ann\r\ntopic a\r\n":       "",
	} {
		_, err := ParseACL([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
	}
}

func long(separators int) string { return strings.Repeat("/", separators) }

// The rules, one by one; that Mosquitto has the same ones is TestLikeMosquitto's affair.
func TestACL(t *testing.T) {
	t.Parallel()
	acl, err := ParseACL([]byte(`# before any user: anonymous clients
topic read public/#
topic read $SYS/#
user ann
topic home/#
topic deny home/private/#
topic read home/private/ann
topic write a topic with blanks
user bob
topic read x
user ann
topic read more
pattern readwrite dev/%u/%c
pattern deny dev/%u/secret
pattern read clients/%c/#
`))
	if err != nil {
		t.Fatal(err)
	}
	ann, nobody := user{name: "ann", clientID: "c1"}, user{unnamed: true, clientID: "c2"}
	for _, tt := range []struct {
		u           user
		topic       string
		read, write bool
	}{
		{nobody, "public/a", true, false},
		{nobody, "$SYS/broker", true, false},
		{nobody, "clients/c2/x", true, false},
		{nobody, "dev//c2", false, false},
		{ann, "public/a", false, false},
		{ann, "home", true, true},
		{ann, "home/kitchen/lamp", true, true},
		{ann, "home/private/ann", false, false}, // the denial wins, though it is the earlier and the wider
		{ann, "a topic with blanks", false, true},
		{ann, "more", true, false},
		{ann, "x", false, false},
		{ann, "dev/ann/c1", true, true},
		{ann, "dev/bob/c1", false, false},
		{user{name: "ann", clientID: "secret"}, "dev/ann/secret", false, false},
		{user{name: "+", clientID: "c1"}, "dev/+/c1", false, false},
		{user{name: "eve", clientID: "#"}, "clients/a/b", false, false},
		{user{name: "", clientID: "c"}, "dev//c", true, true}, // an empty name is a name
		{user{name: "$SYS", clientID: "c"}, "$SYS/a", false, false},
	} {
		if r, w := acl.may(tt.u, tt.topic, read), acl.may(tt.u, tt.topic, write); r != tt.read || w != tt.write {
			t.Errorf("%+v on %q: read %v, write %v; want %v, %v", tt.u, tt.topic, r, w, tt.read, tt.write)
		}
	}
}

func BenchmarkACL(b *testing.B) {
	acl, err := ParseACL([]byte("user ann\ntopic home/#\ntopic deny home/private/#\npattern readwrite dev/%u/%c\n"))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		acl.may(user{name: "ann", clientID: "c1"}, "dev/ann/c1", write)
	}
}

func FuzzACL(f *testing.F) {
	f.Add([]byte("user ann\ntopic read a/#\npattern write %u/%c\ntopic deny b"), "ann", "c", "a/b")
	f.Fuzz(func(t *testing.T, text []byte, name, client, topic string) {
		acl, err := ParseACL(text)
		if err != nil || strings.ContainsAny(topic, "+#") {
			return
		}
		for _, acc := range []access{read, write} {
			u := user{name: name, clientID: client}
			if acl.may(u, topic, acc) && acl.count == 0 {
				t.Errorf("%q allows %q without a rule", text, topic)
			}
		}
	})
}
