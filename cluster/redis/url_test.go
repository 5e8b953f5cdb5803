package redis_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/cluster"
	"github.com/parleymq/parley/cluster/redis"
)

func TestURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"redis://localhost":        "localhost:6379 db=0 user= password=",
		"redis://h:7/3":            "h:7 db=3 user= password=",
		"redis://h/?db=3":          "h:6379 db=3 user= password=",
		"redis://:pw@h":            "h:6379 db=0 user= password=pw",
		"redis://u:p%40%2F%3A@h:1": "h:1 db=0 user=u password=p@/:",
		"redis://u:p@ss@h:1":       "h:1 db=0 user=u password=p@ss",
		"redis://[::1]:7":          "[::1]:7 db=0 user= password=",
		"redis://[::1]":            "[::1]:6379 db=0 user= password=",
		"redis://h1,h2:2,h3":       "cluster h1:6379,h2:2,h3:6379 db=0 user= password=",
		"redis+cluster://u:p@h":    "cluster h:6379 db=0 user=u password=p",

		"redis+sentinel://u:p@h1,h2:1/main":                                                     "master main of sentinels h1:26379,h2:1 db=0 user=u password=p",
		"redis+sentinel://h1/main/4?sentinel_password=pw":                                       "master main of sentinels h1:26379 db=4 user= password= sentinel=:pw",
		"rediss://h?tls_ca=/ca.pem&tls_cert=c&tls_key=k&tls_server_name=n&tls_skip_verify=true": "h:6379 db=0 user= password= tls name=n skip=true ca=/ca.pem cert=c key=k",
		"rediss+cluster://h":              "cluster h:6379 db=0 user= password= tls name= skip=false ca= cert= key=",
		"rediss+sentinel://h/main":        "master main of sentinels h:26379 db=0 user= password= tls name= skip=false ca= cert= key=",
		"unix:///run/redis.sock?db=2":     "/run/redis.sock db=2 user= password=",
		"unix://u:p@/run/redis.sock":      "/run/redis.sock db=0 user=u password=p",
		"redis://my-redis.example.com.:1": "my-redis.example.com.:1 db=0 user= password=",
	} {
		if got, err := redis.Describe(raw); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", raw, got, err, want)
		}
	}
}

// What is wrong is named, and the password is not.
func TestURLRefused(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for raw, want := range map[string]string{
		"":                                      "must begin with",
		"localhost:6379":                        "must begin with",
		"http://u:hunter2@h":                    "scheme",
		"redisss://h":                           "scheme",
		"redis+tls://h":                         "scheme",
		"redis://":                              "host",
		"redis://u:hunter2@":                    "host",
		"redis://u:hunter2@h:":                  "host",
		"redis://u:hunter2@h:0":                 "host",
		"redis://u:hunter2@h:65536":             "host",
		"redis://u:hunter2@h:06":                "host",
		"redis://u:hunter2@h:1:2":               "host",
		"redis://u:hunter2@h1,,h2":              "host 2",
		"redis://u:hunter2@a b":                 "host",
		"redis://u:hunter2@[::1":                "host",
		"redis://u:hunter2@[h]":                 "host",
		"redis://u:hunter2@[::1]x":              "host",
		"redis://u:hunter2%zz@h":                "percent",
		"redis://u@h":                           "without a password",
		"redis://u:hunter2#@h":                  "%23",
		"redis://u:hunter2/x@h":                 "host", // an unescaped / ends the host
		"redis://u:hunter2@h/x":                 "database",
		"redis://u:hunter2@h/-1":                "database",
		"redis://u:hunter2@h/1?db=2":            "database",
		"redis://h1,h2/1":                       "Cluster",
		"redis+cluster://h?db=1":                "Cluster",
		"redis+sentinel://u:hunter2@h":          "master",
		"redis+sentinel://h/a%20b":              "master",
		"redis://u:hunter2@h?x=hunter2":         "parameter",
		"redis://u:hunter2@h?hunter2":           "parameter",
		"redis://u:hunter2@h?db=%zz":            "percent",
		"redis://u:hunter2@h?db=1&db=1":         "more than once",
		"redis://h?tls_ca=x":                    "rediss",
		"rediss://h?tls_cert=x":                 "tls_key",
		"rediss://h?tls_skip_verify=yes":        "tls_skip_verify",
		"redis://h?sentinel_user=x":             "redis+sentinel",
		"unix://":                               "socket",
		"unix://host/path":                      "host",
		"redis://" + strings.Repeat("h,", 5000): "bytes",
		"redis://" + strings.Repeat("h,", 70):   "hosts",
	} {
		_, err := redis.Describe(raw)
		if !errors.Is(err, chat.Invalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%.60s: %v, want invalid that says %q", raw, err, want)
		}
		node := cluster.Node{ID: "a", Name: "a"}
		if _, err2 := redis.New(redis.Options{URL: raw, Installation: "i", Node: node}); err2 == nil || err2.Error() != err.Error() {
			t.Errorf("%.60s: New: %v, want %v", raw, err2, err)
		}
	}
}

// FuzzURL: no URL makes the parser panic, or makes it tell a password.
func FuzzURL(f *testing.F) {
	for _, s := range []string{
		"redis://u:PASSWORD@h:1/2", "rediss://h1,h2?tls_ca=x", "redis+sentinel://u:PASSWORD@h/m/1?sentinel_password=PASSWORD",
		"unix://u:PASSWORD@/s?db=1", "redis://[::1]:6379", "redis+cluster://:PASSWORD@h,", "redis://%zz", "redis://@@:@", "rediss://h?tls_server_name=%00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		said, err := redis.Describe(raw)
		if err != nil {
			if !errors.Is(err, chat.Invalid) {
				t.Errorf("%q: %v is not invalid", raw, err)
			}
			if strings.Contains(err.Error(), "PASSWORD") {
				t.Errorf("%q: the error tells the password: %v", raw, err)
			}
			return
		}
		if again, err := redis.Describe(raw); err != nil || again != said {
			t.Errorf("%q: %q, and then %q, %v", raw, said, again, err)
		}
	})
}
