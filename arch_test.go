package parley_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/parleymq/parley"

// A folder under the root and the other folders, or single packages of them, it may import. Within a folder packages are free
// to know each other. What is not said is not allowed; to say more, change this table and
// .golangci.yml in the commit that needs it.
type folder struct {
	name string
	may  []string
	why  string
}

var folders = []folder{
	{"backoff", nil, "pauses between attempts; no word of the domain"},
	{"batch", nil, "the queue of a group commit; no word of the domain"},
	{"rawio", nil, "sockets, and what Go's scheduler makes of them"},
	{"chat", []string{"backoff", "batch"}, "the language and the rules; everything else may change under them"},
	{"identity", []string{"chat"}, "accounts, passwords and tokens; it answers in chat's words"},
	{"delivery", []string{"backoff", "chat"}, "events to sessions, knowing neither the wire nor the database"},
	{"presence", []string{"backoff", "chat"}, "who is online, and who is shown it; knowing neither the wire nor the database"},
	{"store", []string{"backoff", "batch", "chat", "identity", "presence", "migrations", "rawio"}, "serves their ports from PostgreSQL, and applies the schema they need"},
	{"cluster", []string{"backoff", "chat"}, "what nodes tell each other, in chat's words"},
	{"topics", []string{"backoff", "batch", "chat"}, "the broker for device topics, knowing neither the wire nor the database"},
	{"broker", []string{"backoff", "chat", "delivery", "rawio"}, "carries packets, and is what delivery hands events to"},

	{"asyncapi", []string{"chat"}, "describes what goes over MQTT, in chat's words; it carries nothing"},

	// The doors do not know each other.
	{"hooks", []string{"backoff", "chat", "presence", "broker", "delivery", "topics"}, "a door: the host's callbacks as calls on chat, presence, delivery and topics"},
	{"rest", []string{"chat", "identity", "asyncapi"}, "a door: HTTP as calls on chat, and accounts for clients; it serves the documents of both doors"},
	{"mosquitto-compat", []string{"chat"}, "a door: mosquitto's files in chat's words"},

	{"programtest", nil, "for tests: the external programs that they start"},
	{"seedtest", nil, "for tests: one seed for all that is random in them"},
	{"migrations", nil, "SQL and nothing else"},
	{"pgchild", []string{"backoff"}, "runs PostgreSQL as a child; it could serve any other program"},
	{"client", nil, "for other people's programs: the contract is all it shares with the server"},

	{"app", []string{
		"chat", "identity", "presence", "delivery", "topics", "store", "cluster", "broker", "hooks", "rest", "asyncapi",
		"mosquitto-compat", "migrations", "pgchild",
	}, "puts everything together, outside of main so that tests may start it too"},
	{"bench", nil, "load over the network: the contract is all it shares with the server"},
	{"campaign", []string{"chat", "store", "pgchild", "broker/brokertest"}, "speaks to the server over the network only, with the test client's codec; it runs its PostgreSQL, and asks the store for the truth to compare with"},
	{"cmd", []string{
		"app", "bench", "chat", "identity", "presence", "delivery", "topics", "store", "cluster", "broker", "hooks", "rest",
		"mosquitto-compat", "migrations", "pgchild", "client",
	}, "starts it, and speaks with operators; known to nobody"},
}

// A third-party module, or a package of one, and the folders that may import it; the longest name
// that fits decides, and several lines add up. "*" means every folder but chat, which is meant
// only by its name. only narrows a line to one file name ("metrics.go"), or to uses of one name of
// the package (".Registerer").
type border struct {
	path string
	in   []string
	only string
	why  string
}

var borders = []border{
	{"github.com/google/uuid", []string{"*", "chat"}, "", "ids are part of the language"},
	{"github.com/mochi-mqtt/server", nil, "", "its decoder is all that is used of it"},
	{"github.com/mochi-mqtt/server/v2/packets", []string{"broker", "hooks", "campaign"}, "", "packets, and what the test client is spoken to with"},
	{"github.com/gorilla/websocket", []string{"broker"}, "", "WebSocket is one of the broker's listeners"},
	{"github.com/pires/go-proxyproto", []string{"broker"}, "", "who is behind the proxy is a listener's affair"},
	{"github.com/jackc/pgx", []string{"store", "migrations", "pgchild", "bench"}, "", "SQL is spoken here only; app opens a store, not a pool; bench measures the database by itself"},
	{"github.com/jackc/puddle", []string{"store"}, "", "pgx's pool, whose errors come through"},
	{"github.com/pressly/goose", []string{"migrations", "store"}, "", "steps are written in one and applied by the other"},
	{"github.com/redis/go-redis", []string{"cluster"}, "", "Redis may be empty or absent, and only cluster has to know"},
	{"github.com/go-chi/chi", []string{"rest"}, "", "routes are the door's own"},
	{"github.com/danielgtaylor/huma", []string{"rest"}, "", "so is the OpenAPI made from them"},
	{"github.com/golang-jwt/jwt", []string{"identity"}, "", "a token is read in one place"},
	{"golang.org/x/crypto/argon2", []string{"identity"}, "", "a password is hashed in one place"},
	{"golang.org/x/crypto/acme", []string{"app", "broker", "rest"}, "", "certificates are made once and served by listeners"},
	{"github.com/eclipse/paho.golang", []string{"client", "cmd"}, "", "the client is built on it"},
	{"github.com/HdrHistogram/hdrhistogram-go", []string{"bench"}, "", "distributions of latency, in little memory and with known precision"},
	{"github.com/alecthomas/kong", []string{"cmd"}, "", "flags and the file are main's to read"},
	{"github.com/prometheus/client_golang", []string{"*"}, "metrics.go", "each package makes its metrics in one file"},
	{"github.com/prometheus/client_golang", []string{"*"}, ".Registerer", "and is handed where to put them in its options"},
	{"github.com/prometheus/client_golang", []string{"app", "cmd"}, "", "the registry is made and served where everything is put together"},
	{"golang.org/x/sync", []string{"*"}, "", "errgroup and semaphore, as good as standard"},
	{"golang.org/x/text", []string{"store"}, "", "what a text is found by is made in one place, for index and query alike"},
	{"golang.org/x/text/secure/precis", []string{"identity"}, "", "so is what a password is compared by"},
	{"golang.org/x/text/unicode/norm", []string{"identity", "store"}, "", "and an email address"},
	{"golang.org/x/time/rate", []string{"*"}, "", "limits per node"},
	{"golang.org/x/sys", []string{"pgchild", "cmd"}, "", "processes and terminals, where syscall is frozen"},
	{"golang.org/x/term", []string{"cmd"}, "", "a password typed is not shown"},
}

// An edge is one import in one file, as it is found, with the names it uses of what it imports.
// pkg is relative to the root ("" is the root).
type edge struct {
	pkg, file, imports string
	uses               []string
}

// complain says what is wrong with an edge, or "".
func complain(e edge) string {
	test := strings.HasSuffix(e.file, "_test.go")
	support := testSupport(e.pkg)
	from, _, _ := strings.Cut(e.pkg, "/")

	if e.imports == module || strings.HasPrefix(e.imports, module+"/") {
		to := strings.TrimPrefix(strings.TrimPrefix(e.imports, module), "/")
		top, _, _ := strings.Cut(to, "/")
		row, known := find(from)
		named := slices.Contains(row.may, to) // a package of a folder, test support too
		switch {
		case test:
			return ""
		case testSupport(to) && !support && !named:
			return "is for tests: only _test.go files and other test-support packages import it"
		case top == "cmd" && from != "cmd":
			return "nothing imports cmd but tests"
		case support, named, top == from:
			return ""
		case !known || !slices.Contains(row.may, top):
			return fmt.Sprintf("%s may import %s (%s)", cmp.Or(from, "the root"), list(row.may), cmp.Or(row.why, "not in the table"))
		}
		return ""
	}

	first, _, _ := strings.Cut(e.imports, "/")
	if !strings.Contains(first, ".") || test || support {
		return "" // the standard library, or a test
	}
	var longest int
	var where []string
	for _, b := range borders {
		if !within(e.imports, b.path) || len(b.path) < longest {
			continue
		}
		if len(b.path) > longest {
			longest, where = len(b.path), nil
		}
		if !b.admits(e) {
			where = append(where, fmt.Sprintf("%s in %s (%s)", b.only, list(b.in), b.why))
			continue
		}
		if slices.Contains(b.in, from) || slices.Contains(b.in, "*") && from != "chat" && from != "" {
			return ""
		}
		where = append(where, fmt.Sprintf("%s (%s)", list(b.in), b.why))
	}
	if longest == 0 {
		return "is a module that no line of borders knows: a dependency is a decision, so add the line, with where and why"
	}
	return "belongs in " + strings.Join(where, ", or in ")
}

// admits reports whether an edge is within what the line is narrowed to.
func (b border) admits(e edge) bool {
	name, isName := strings.CutPrefix(b.only, ".")
	switch {
	case b.only == "":
		return true
	case isName:
		return len(e.uses) > 0 && !slices.ContainsFunc(e.uses, func(used string) bool { return used != name })
	}
	return path.Base(e.file) == b.only
}

// uses lists the names a file uses of one of its imports.
func uses(f *ast.File, spec *ast.ImportSpec) []string {
	name := path.Base(strings.Trim(spec.Path.Value, `"`))
	if spec.Name != nil {
		name = spec.Name.Name
	}
	var names []string
	ast.Inspect(f, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == name {
				names = append(names, sel.Sel.Name)
			}
		}
		return true
	})
	return names
}

func find(name string) (folder, bool) {
	i := slices.IndexFunc(folders, func(f folder) bool { return f.name == name })
	if i < 0 {
		return folder{}, false
	}
	return folders[i], true
}

// within reports whether an import path is that package or module, in any major version, or below it.
func within(imports, p string) bool {
	return imports == p || strings.HasPrefix(imports, p+"/")
}

// testSupport reports whether pkg, relative to the root, helps tests: storetest, clustertest/faults.
func testSupport(pkg string) bool {
	return slices.ContainsFunc(strings.Split(pkg, "/"), func(s string) bool {
		return len(s) > len("test") && strings.HasSuffix(s, "test")
	})
}

func list(names []string) string {
	switch {
	case len(names) == 0:
		return "nothing of ours"
	case slices.Contains(names, "*"):
		return "any folder but chat"
	}
	return strings.Join(names, ", ")
}

// TestArrows reads every import there is, on every operating system, and asks the tables.
func TestArrows(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		top, _, _ := strings.Cut(p.rel, "/")
		if _, known := find(top); !known && p.rel != "" {
			t.Errorf("%s: the folder %s holds Go code and is in no table. Say in this commit which folders it may know, and why: "+
				"folders in arch_test.go, and depguard in .golangci.yml", p.rel, top)
			continue
		}
		for _, f := range p.files {
			for _, spec := range f.ast.Imports {
				e := edge{p.rel, f.name, strings.Trim(spec.Path.Value, `"`), uses(f.ast, spec)}
				if wrong := complain(e); wrong != "" {
					t.Errorf("%s imports %s: %s", path.Join(e.pkg, e.file), e.imports, wrong)
				}
			}
		}
	}
}

// TestComplain shows that the rule finds what it is there to find, and lets pass what is right.
func TestComplain(t *testing.T) {
	t.Parallel()
	tests := []struct {
		file    string
		imports string // and the names it uses
		want    string // part of the complaint; "" for none
	}{
		{"store/user.go", module + "/chat", ""},
		{"cluster/redis/bus.go", module + "/cluster", ""},
		{"cluster/redis/bus.go", "github.com/redis/go-redis/v9", ""},
		{"app/app.go", module + "/rest", ""},
		{"cmd/parley/serve.go", module + "/app", ""},
		{"chat/id.go", "github.com/google/uuid", ""},
		{"chat/id.go", "crypto/sha256", ""},
		{"hooks/access.go", "github.com/mochi-mqtt/server/v2/packets", ""},
		{"delivery/metrics.go", "github.com/prometheus/client_golang/prometheus", ""},

		{"chat/user.go", module + "/store", "chat may import backoff, batch"},
		{"chat/user.go", "golang.org/x/sync/errgroup", "any folder but chat"},
		{"chat/metrics.go", "github.com/prometheus/client_golang/prometheus", "belongs in"},
		{"hooks/access.go", module + "/rest", "hooks may import backoff, chat, presence, broker, delivery"},
		{"rest/doc.go", module + "/hooks/access", "rest may import chat, identity"},
		{"mosquitto-compat/acl.go", module + "/rest", "mosquitto-compat may import chat"},
		{"delivery/tail.go", module + "/store", "delivery may import backoff, chat"},
		{"rest/serve.go", module + "/app", "rest may import chat, identity"},
		{"app/app.go", module + "/cmd/parley", "nothing imports cmd"},
		{"store/storetest/check.go", module + "/cmd/parley", "nothing imports cmd"},
		{"doc.go", module + "/chat", "the root may import nothing of ours"},
		{"elsewhere/x.go", module + "/chat", "not in the table"},
		{"app/app.go", "github.com/jackc/pgx/v5/pgxpool", "belongs in store, migrations, pgchild, bench"},
		{"rest/users.go", "github.com/mochi-mqtt/server/v2/packets", "belongs in broker, hooks"},
		{"delivery/tail.go", "github.com/prometheus/client_golang/prometheus", "metrics.go in any folder but chat"},
		{"delivery/tail.go", "github.com/prometheus/client_golang/prometheus Registerer", ""},
		{"delivery/tail.go", "github.com/prometheus/client_golang/prometheus Registerer NewCounter", "metrics.go in any folder but chat"},
		{"rest/login.go", "golang.org/x/crypto/argon2", "belongs in identity"},
		{"rest/login.go", "golang.org/x/crypto/bcrypt", "no line of borders knows"},
		{"store/x.go", "example.com/new/thing", "no line of borders knows"},
		{"store/x.go", "github.com/google/uuidish", "no line of borders knows"},

		// Tests may know more, and lend nothing.
		{"delivery/tail_test.go", module + "/store", ""},
		{"store/user_test.go", module + "/store/storetest", ""},
		{"delivery/tail_test.go", "pgregory.net/rapid", ""},
		{"broker/brokertest/app.go", module + "/store/storetest", ""},
		{"store/storetest/check.go", "github.com/google/go-cmp/cmp", ""},
		{"store/user.go", module + "/store/storetest", "is for tests"},
		{"cmd/parley/bench.go", module + "/broker/brokertest", "is for tests"},
		{"campaign/client.go", module + "/broker/brokertest", ""},
		{"campaign/client.go", module + "/broker", "campaign may import"},
	}
	for _, tt := range tests {
		words := strings.Fields(tt.imports)
		dir, file := path.Split(tt.file)
		got := complain(edge{strings.TrimSuffix(dir, "/"), file, words[0], words[1:]})
		if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
			t.Errorf("complain(%s imports %s) = %q, want %q", tt.file, tt.imports, got, tt.want)
		}
	}
}

// TestTables looks at the tables themselves: no arrow leads nowhere, none leads back.
func TestTables(t *testing.T) {
	t.Parallel()
	var visit func(name string, trail []string)
	visit = func(name string, trail []string) {
		if slices.Contains(trail, name) {
			t.Fatalf("the arrows go round: %s", strings.Join(append(trail, name), " → "))
		}
		row, known := find(name)
		if testSupport(name) {
			return
		}
		if !known {
			t.Fatalf("%s is allowed to somebody, and is no row of folders", name)
		}
		for _, next := range row.may {
			visit(next, append(slices.Clone(trail), name))
		}
	}
	for _, f := range folders {
		visit(f.name, nil)
		if f.why == "" {
			t.Errorf("%s: no reason", f.name)
		}
		if !isDir(f.name) {
			t.Errorf("folders has %s, and there is no such folder", f.name)
		}
	}
	modules, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	required := regexp.MustCompile(`(?m)^(?:require)?\s+([a-z0-9.-]+\.[a-z]+/\S+) v`).FindAllStringSubmatch(string(modules), -1)
	for _, b := range borders {
		if b.why == "" {
			t.Errorf("%s: no reason", b.path)
		}
		if !slices.ContainsFunc(required, func(m []string) bool { return within(m[1], b.path) || within(b.path, m[1]) }) {
			t.Errorf("borders has %s, which go.mod does not require", b.path)
		}
		for _, name := range b.in {
			if _, known := find(name); !known && name != "*" {
				t.Errorf("%s: there is no folder %s", b.path, name)
			}
		}
	}
}

// TestLintTable looks at depguard's rules in .golangci.yml: the folders they name are there.
func TestLintTable(t *testing.T) {
	t.Parallel()
	config, err := os.ReadFile(".golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`base-path\}/([a-z-]+)/|parleymq/parley/([a-z-]+)`).FindAllStringSubmatch(string(config), -1) {
		if name := m[1] + m[2]; !isDir(name) {
			t.Errorf(".golangci.yml names the folder %s, and there is none", name)
		}
	}
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// TestPackageComments asks for one package comment in each package, and only one: two drift apart,
// and godoc glues them together in the order of file names.
func TestPackageComments(t *testing.T) {
	t.Parallel()
	for _, p := range packages(t) {
		var in []string
		var code bool
		for _, f := range p.files {
			if strings.HasSuffix(f.name, "_test.go") {
				continue
			}
			code = true
			doc := f.ast.Doc.Text()
			if doc == "" {
				continue
			}
			in = append(in, f.name)
			if name := f.ast.Name.Name; name != "main" && !strings.HasPrefix(doc, "Package "+name+" ") {
				t.Errorf("%s: a package comment begins with %q", path.Join(p.rel, f.name), "Package "+name)
			}
		}
		switch {
		case code && len(in) == 0:
			t.Errorf("%s: no package comment; say in its main file or doc.go what the package is for", cmp.Or(p.rel, "."))
		case len(in) > 1:
			t.Errorf("%s: package comments in %s; one is enough", cmp.Or(p.rel, "."), strings.Join(in, ", "))
		}
	}
}

// A listed package of ours, with all of its files: tests, and those of other systems, too.
type listed struct {
	rel   string
	files []source
}

type source struct {
	name string
	ast  *ast.File
}

// packages lists what is under the root; modules of their own (tools) are not. Tests share what it
// returns and must not change it.
func packages(t *testing.T) []listed {
	t.Helper()
	all, err := listOnce()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 {
		t.Fatalf("go list found %d packages; the test would look at nothing", len(all))
	}
	return all
}

var listOnce = sync.OnceValues(func() ([]listed, error) {
	// -e: a package that does not build is another test's affair.
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir", "./...")
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w\n%s", err, complaints.String())
	}
	var all []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ ImportPath, Dir string }
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list -json: %w", err)
		}
		names, err := filepath.Glob(filepath.Join(p.Dir, "*.go"))
		if err != nil {
			return nil, err
		}
		l := listed{rel: strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")}
		for _, name := range names {
			f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				return nil, err
			}
			l.files = append(l.files, source{filepath.Base(name), f})
		}
		all = append(all, l)
	}
	return all, nil
})
