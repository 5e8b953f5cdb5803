package parley_test

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the documents say and a program can check, is checked here: links, files, names in the code,
// tests, flags, environment variables, metrics, limits, migrations and make targets.

// documents returns the Markdown files that describe the present, by their path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "*/*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			docs[filepath.ToSlash(name)] = string(text)
		}
	}
	if len(docs) < 10 {
		t.Fatalf("found %d documents", len(docs))
	}
	return docs
}

// eachMatch calls f for each match of a pattern in the documents, with "file:line" and its groups.
func eachMatch(t *testing.T, pattern string, f func(at string, groups []string)) {
	t.Helper()
	re, found := regexp.MustCompile(pattern), false
	for name, text := range documents(t) {
		for i, line := range strings.Split(text, "\n") {
			for _, m := range re.FindAllStringSubmatch(line, -1) {
				found = true
				f(fmt.Sprintf("%s:%d", name, i+1), m)
			}
		}
	}
	if !found {
		t.Errorf("nothing in the documents matches %s; the test looks at nothing", pattern)
	}
}

// Links within the repository lead to a file, and to a heading of it.
func TestLinks(t *testing.T) {
	t.Parallel()
	docs := documents(t)
	eachMatch(t, `\]\(([^)\s]+)\)`, func(at string, groups []string) {
		target, anchor, _ := strings.Cut(groups[1], "#")
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			return
		}
		from, _, _ := strings.Cut(at, ":")
		file := from
		if target != "" {
			file = path.Join(path.Dir(from), target)
		}
		if _, err := os.Stat(filepath.FromSlash(file)); err != nil {
			t.Errorf("%s: there is no %s", at, file)
			return
		}
		if anchor != "" && !slices.Contains(headings(docs[file]), anchor) {
			t.Errorf("%s: %s has no heading #%s", at, file, anchor)
		}
	})
}

// headings returns the anchors of a document's headings, as GitHub makes them.
func headings(text string) []string {
	var anchors []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(text, -1) {
		anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		anchors = append(anchors, strings.ReplaceAll(anchor, " ", "-"))
	}
	return anchors
}

// A file or folder in backticks exists, if it begins with a folder of this repository.
func TestNamedFiles(t *testing.T) {
	t.Parallel()
	eachMatch(t, "`([a-z.-]+)/([A-Za-z0-9_./-]*?)(?:\\.(?:Test|Fuzz|Benchmark)[A-Za-z0-9_]*)?`", func(at string, groups []string) {
		if at, _, _ := strings.Cut(at, ":"); at == "CHANGELOG.md" {
			return // it also speaks of what is gone
		}
		if info, err := os.Stat(groups[1]); err != nil || !info.IsDir() {
			return // a topic, a route, somebody else's path
		}
		name := groups[1] + "/" + groups[2]
		if _, err := os.Stat(filepath.FromSlash(name)); err != nil {
			t.Errorf("%s: there is no %s", at, name)
		}
	})
}

// "contract, 2" in the code or in a document means section 2 of docs/contract.md.
func TestContractSections(t *testing.T) {
	t.Parallel()
	contract, err := os.ReadFile("docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	cited := 0
	check := func(at, text string) {
		for _, m := range regexp.MustCompile(`\b[Cc]ontract, (\d)`).FindAllStringSubmatch(text, -1) {
			cited++
			if !strings.Contains(string(contract), "\n## "+m[1]+". ") {
				t.Errorf("%s cites section %s of docs/contract.md, which it does not have", at, m[1])
			}
		}
	}
	for name, text := range documents(t) {
		check(name, text)
	}
	for _, p := range packages(t) {
		for _, f := range p.files {
			for _, c := range f.ast.Comments {
				check(path.Join(p.rel, f.name), strings.Join(strings.Fields(c.Text()), " "))
			}
		}
	}
	if cited == 0 {
		t.Error("nothing cites the contract")
	}
}

// Names such as `store.Writer` and `chat.Service.Send` in the documents are declared in that package.
func TestNamedDeclarations(t *testing.T) {
	t.Parallel()
	code := parsed(t)
	eachMatch(t, "`([a-z]+)\\.([A-Z][A-Za-z0-9]*)(?:\\.([A-Za-z0-9]+))?(?:\\(\\))?`", func(at string, groups []string) {
		pkgs := code.named[groups[1]]
		if len(pkgs) == 0 || regexp.MustCompile(`^(Test|Fuzz|Benchmark)`).MatchString(groups[2]) {
			return // not a package of ours, or TestNamedTests' affair
		}
		if file, _, _ := strings.Cut(at, ":"); file == "CHANGELOG.md" {
			return
		}
		for _, name := range groups[2:] {
			if name != "" && !slices.ContainsFunc(pkgs, func(p *pkg) bool { return p.names[name] }) {
				t.Errorf("%s: package %s declares no %s", at, groups[1], name)
			}
		}
	})
}

// Tests that the documents name exist. docs/conformance.md is checked by TestConformanceTable.
func TestNamedTests(t *testing.T) {
	t.Parallel()
	code := parsed(t)
	eachMatch(t, "`(?:[a-z/]+\\.)?((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]*)`", func(at string, groups []string) {
		if !code.tests[groups[1]] {
			t.Errorf("%s: there is no %s", at, groups[1])
		}
	})
}

// Environment variables of ours in the documents are read somewhere.
func TestNamedVariables(t *testing.T) {
	t.Parallel()
	code := parsed(t)
	eachMatch(t, `\b(PARLEY_[A-Z_]+)\b`, func(at string, groups []string) {
		if !strings.Contains(code.literals, `"`+groups[1]+`"`) && !strings.Contains(code.literals, `env:\"`+groups[1]+`\"`) &&
			!strings.Contains(code.literals, `env:"`+groups[1]+`"`) {
			t.Errorf("%s: nothing reads %s", at, groups[1])
		}
	})
}

// Flags in the documents are flags of parley, of our own commands, or of the programs listed here.
func TestNamedFlags(t *testing.T) {
	t.Parallel()
	known := map[string]bool{}
	for _, name := range strings.Fields("help cafile will-topic will-payload will-qos tls-use-os-certs unbuffered no-owner single-transaction clean if-exists ulimit no-cache") {
		known[name] = true // of mosquitto's clients, jq, pg_restore and docker
	}
	for _, p := range parsed(t).named["main"] {
		for _, f := range p.files {
			ast.Inspect(f, func(n ast.Node) bool {
				if field, ok := n.(*ast.Field); ok {
					for _, name := range field.Names {
						known[kebab(name.Name)] = true
					}
					if field.Tag != nil {
						text, _ := strconv.Unquote(field.Tag.Value)
						known[reflect.StructTag(text).Get("name")] = true
					}
				}
				return true
			})
		}
	}
	eachMatch(t, "(?:^|[\\s`(\\[])--([a-z][a-z-]+)", func(at string, groups []string) {
		if !known[groups[1]] {
			t.Errorf("%s: there is no flag --%s", at, groups[1])
		}
	})
}

// kebab is the flag that kong makes of a field's name.
func kebab(name string) string {
	s := regexp.MustCompile(`([a-z0-9])([A-Z])`).ReplaceAllString(name, "$1-$2")
	return strings.ToLower(regexp.MustCompile(`([A-Z])([A-Z][a-z])`).ReplaceAllString(s, "$1-$2"))
}

// Metrics in the documents are registered, and docs/operations.md or docs/redis.md has each one.
func TestNamedMetrics(t *testing.T) {
	t.Parallel()
	registered, named := map[string]string{}, map[string]bool{}
	for _, p := range packages(t) {
		for _, f := range p.files {
			if f.name != "metrics.go" {
				continue
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && strings.HasPrefix(lit.Value, `"parley_`) {
					registered[strings.Trim(lit.Value, `"`)] = path.Join(p.rel, f.name)
				}
				return true
			})
		}
	}
	eachMatch(t, `\b(parley_[a-z][a-z_]*[a-z])\b`, func(at string, groups []string) {
		name := groups[1]
		if name == "parley_schema_version" {
			return // a table
		}
		if file, _, _ := strings.Cut(at, ":"); file == "docs/operations.md" || file == "docs/redis.md" {
			named[name] = true
		}
		if _, ok := registered[name]; !ok {
			t.Errorf("%s: nothing registers the metric %s", at, name)
		}
	})
	for name, file := range registered {
		if !named[name] {
			t.Errorf("neither docs/operations.md nor docs/redis.md has %s of %s", name, file)
		}
	}
}

// Commands to type exist: make targets, and migrations are named by their file, which is checked above.
func TestNamedTargets(t *testing.T) {
	t.Parallel()
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	eachMatch(t, "(?:`|^)make ([a-z]+)", func(at string, groups []string) {
		if !strings.Contains(string(makefile), "\n"+groups[1]+":") {
			t.Errorf("%s: the Makefile has no target %s", at, groups[1])
		}
	})
	for name, text := range documents(t) {
		if m := regexp.MustCompile(`[Mm]igration \d+`).FindString(text); m != "" {
			t.Errorf("%s: %q is a number that may be wrong; name the file in migrations/", name, m)
		}
	}
}

// docs/limits.md has in each row as many numbers as constants, and the numbers are their values.
func TestLimits(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	code := parsed(t)
	quoted := regexp.MustCompile("`([A-Za-z]+(?:\\.[A-Za-z0-9]+)+)`")
	rows := 0
	for i, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		constants := quoted.FindAllStringSubmatch(cells[len(cells)-1], -1)
		if !strings.HasPrefix(line, "| ") || len(cells) < 3 || cells[0] == "What" {
			continue
		}
		rows++
		numbers := numbersIn(cells[1])
		if len(numbers) != len(constants) || len(numbers) == 0 {
			t.Errorf("docs/limits.md:%d: %d numbers, %d constants: %s", i+1, len(numbers), len(constants), line)
			continue
		}
		for n, m := range constants {
			got, err := code.value(m[1])
			if err != nil {
				t.Errorf("docs/limits.md:%d: %s: %v", i+1, m[1], err)
			} else if got != numbers[n] {
				t.Errorf("docs/limits.md:%d: %s is %d, the table says %d", i+1, m[1], got, numbers[n])
			}
		}
	}
	if rows < 80 {
		t.Errorf("the table has %d rows", rows)
	}
}

var units = map[string]int64{
	"KiB": 1 << 10, "MiB": 1 << 20, "ms": int64(time.Millisecond), "s": int64(time.Second), "min": int64(time.Minute),
	"h": int64(time.Hour), "days": 24 * int64(time.Hour),
}

// numbersIn returns the numbers in a text, in their units: bytes, or nanoseconds.
func numbersIn(text string) []int64 {
	var numbers []int64
	for _, m := range regexp.MustCompile(`(\d[\d,]*)(?: (KiB|MiB|ms|s|min|h|days)\b)?`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseInt(strings.TrimRight(strings.ReplaceAll(m[1], ",", ""), ","), 10, 64)
		if err != nil {
			continue
		}
		if unit, ok := units[m[2]]; ok {
			n *= unit
		}
		numbers = append(numbers, n)
	}
	return numbers
}

// source code, as far as these tests ask it something.
type codebase struct {
	named    map[string][]*pkg // by the name in their package clauses
	tests    map[string]bool   // functions of _test.go files
	literals string            // all string literals and tags
}

type pkg struct {
	files []*ast.File // without tests
	names map[string]bool
}

// parsed returns the code of this module. What it returns must not be changed: tests share it.
func parsed(t *testing.T) *codebase {
	t.Helper()
	all := packages(t)
	parsedOnce.Do(func() { parsedCode = parse(all) })
	return parsedCode
}

var (
	parsedOnce sync.Once
	parsedCode *codebase
)

func parse(all []listed) *codebase {
	c := &codebase{named: map[string][]*pkg{}, tests: map[string]bool{}}
	var literals strings.Builder
	for _, listed := range all {
		p := &pkg{names: map[string]bool{}}
		name := ""
		for _, f := range listed.files {
			ast.Inspect(f.ast, func(n ast.Node) bool {
				if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
					literals.WriteString(lit.Value)
				}
				return true
			})
			if strings.HasSuffix(f.name, "_test.go") {
				for _, d := range f.ast.Decls {
					if fn, ok := d.(*ast.FuncDecl); ok {
						c.tests[fn.Name.Name] = true
					}
				}
				continue
			}
			name = f.ast.Name.Name
			p.files = append(p.files, f.ast)
			ast.Inspect(f.ast, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					p.names[n.Name.Name] = true
				case *ast.TypeSpec:
					p.names[n.Name.Name] = true
				case *ast.ValueSpec:
					for _, id := range n.Names {
						p.names[id.Name] = true
					}
				case *ast.Field:
					for _, id := range n.Names {
						p.names[id.Name] = true
					}
				}
				return true
			})
		}
		if name != "" {
			c.named[name] = append(c.named[name], p)
		}
	}
	c.literals = literals.String()
	return c
}

// value returns what "chat.MaxContentBytes", "broker.Limits.MaxPacket" (the default of a field) or
// "identity.DefaultLoginRate.Burst" (a field of a variable) is.
func (c *codebase) value(name string) (int64, error) {
	parts := strings.Split(name, ".")
	for _, p := range c.named[parts[0]] {
		var found []int64
		add := func(e ast.Expr) {
			if v := c.eval(p, e); v.Kind() == constant.Int {
				n, _ := constant.Int64Val(v)
				found = append(found, n)
			}
		}
		if len(parts) == 2 {
			if e := p.constant(parts[1]); e != nil {
				add(e)
			}
		} else if e := p.constant(parts[1]); e != nil { // a variable
			ast.Inspect(e, func(n ast.Node) bool {
				if kv, ok := n.(*ast.KeyValueExpr); ok && isName(kv.Key, parts[2]) {
					add(kv.Value)
				}
				return true
			})
		} else if p.names[parts[1]] {
			for _, f := range p.files {
				ast.Inspect(f, func(n ast.Node) bool {
					switch n := n.(type) {
					case *ast.IfStmt: // if o.Field == 0 { o.Field = 8 }
						if cond, ok := n.Cond.(*ast.BinaryExpr); ok && isField(cond.X, parts[2]) && len(n.Body.List) == 1 {
							if set, ok := n.Body.List[0].(*ast.AssignStmt); ok && isField(set.Lhs[0], parts[2]) {
								add(set.Rhs[0])
							}
						}
					case *ast.CallExpr: // cmp.Or(o.Field, 8)
						if len(n.Args) != 2 || isName(n.Fun, "min") || isName(n.Fun, "max") {
							return true
						}
						if isField(n.Args[0], parts[2]) {
							add(n.Args[1])
						}
					}
					return true
				})
			}
		}
		slices.Sort(found)
		if found = slices.Compact(found); len(found) == 1 {
			return found[0], nil
		} else if len(found) > 1 {
			return 0, fmt.Errorf("may be any of %d", found)
		}
	}
	return 0, fmt.Errorf("no such constant or default; name in docs/limits.md what sets this limit now, and its value")
}

func isName(e ast.Expr, name string) bool {
	id, ok := e.(*ast.Ident)
	return ok && id.Name == name
}

func isField(e ast.Expr, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == name
}

// constant returns what a name is declared as at the top of a package, or nil.
func (p *pkg) constant(name string) ast.Expr {
	for _, f := range p.files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				if v, ok := s.(*ast.ValueSpec); ok {
					for i, id := range v.Names {
						if id.Name == name && i < len(v.Values) {
							return v.Values[i]
						}
					}
				}
			}
		}
	}
	return nil
}

// eval computes a constant expression; what it does not understand is unknown.
func (c *codebase) eval(p *pkg, e ast.Expr) constant.Value {
	durations := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}
	switch e := e.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(e.Value, e.Kind, 0)
	case *ast.ParenExpr:
		return c.eval(p, e.X)
	case *ast.Ident:
		if v := p.constant(e.Name); v != nil {
			return c.eval(p, v)
		}
	case *ast.SelectorExpr:
		if d, ok := durations[e.Sel.Name]; ok && isName(e.X, "time") {
			return constant.MakeInt64(int64(d))
		}
		if id, ok := e.X.(*ast.Ident); ok {
			for _, other := range c.named[id.Name] {
				if v := other.constant(e.Sel.Name); v != nil {
					return c.eval(other, v)
				}
			}
		}
	case *ast.BinaryExpr:
		x, y := c.eval(p, e.X), c.eval(p, e.Y)
		if x.Kind() != constant.Int || y.Kind() != constant.Int {
			return constant.MakeUnknown()
		}
		if e.Op == token.SHL {
			n, _ := constant.Uint64Val(y)
			return constant.Shift(x, token.SHL, uint(n))
		}
		return constant.BinaryOp(x, e.Op, y)
	}
	return constant.MakeUnknown()
}

// The walks in ARCHITECTURE.md name a file, then functions and methods that are declared in it.
func TestWalks(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, walks, ok := strings.Cut(string(text), "\n## 2. Five walks\n")
	if !ok {
		t.Fatal("ARCHITECTURE.md has no section of walks")
	}
	walks, _, _ = strings.Cut(walks, "\n## 3.")
	steps := 0
	for _, row := range regexp.MustCompile(`(?m)^\| .* \| (.*) \|$`).FindAllStringSubmatch(walks, -1) {
		var source string
		for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			if strings.HasSuffix(m[1], ".go") {
				b, err := os.ReadFile(m[1])
				if err != nil {
					t.Errorf("ARCHITECTURE.md: %v", err)
				}
				source = string(b)
				continue
			}
			receiver, name, isMethod := strings.Cut(m[1], ".")
			declared := `(?m)^func ` + receiver + `\b`
			if isMethod {
				declared = `(?m)^func \(\w+ \*?` + receiver + `\) ` + name + `\b`
			}
			steps++
			if !regexp.MustCompile(declared).MatchString(source) {
				t.Errorf("ARCHITECTURE.md: %q does not declare %s", row[1], m[1])
			}
		}
	}
	if steps < 20 {
		t.Errorf("found %d functions in the walks", steps)
	}
}
