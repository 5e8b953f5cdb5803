package programtest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/parleymq/parley/programtest"
)

// In tests and packages for tests, exec.Command is given no name but that of go, which runs them, and
// /bin/sh, and nothing but this package calls exec.LookPath or decides what CI means. What is left to
// exec.Command are paths from Path, binaries that the tests have built, and the test binary itself.
func TestOnlyHere(t *testing.T) {
	t.Parallel()
	files := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == "tools" || d.Name() == "programtest" || d.Name() == "testdata" || d.Name() == ".git"):
			return fs.SkipDir // tools is a module of its own, whose tests start nothing
		case strings.HasSuffix(path, "_test.go"), strings.HasSuffix(filepath.Dir(path), "test") && strings.HasSuffix(path, ".go"):
			files++
			return check(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 100 {
		t.Errorf("looked at %d files: where are the others?", files)
	}
}

func check(t *testing.T, path string) error {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := sel.X.(*ast.Ident)
		if !ok {
			return true
		}
		name := -1 // the argument that must not be a literal
		switch pkg.Name + "." + sel.Sel.Name {
		case "exec.Command":
			name = 0
		case "exec.CommandContext":
			name = 1
		case "exec.LookPath":
			t.Errorf("%s: exec.LookPath finds what is not declared; use programtest.Path", fset.Position(call.Pos()))
		case "os.Getenv", "os.LookupEnv":
			if lit, ok := call.Args[0].(*ast.BasicLit); ok && lit.Value == `"CI"` {
				t.Errorf("%s: what is missing is told by programtest.Missing", fset.Position(call.Pos()))
			}
		}
		if name >= 0 && len(call.Args) > name {
			if lit, ok := call.Args[name].(*ast.BasicLit); ok && lit.Value != `"go"` && lit.Value != `"/bin/sh"` {
				t.Errorf("%s: %s is started by its name; use programtest.Path", fset.Position(call.Pos()), lit.Value)
			}
		}
		return true
	})
	return nil
}

// fake is a test that records how it ends.
type fake struct {
	testing.TB
	failed, skipped bool
}

func (f *fake) Helper()               {}
func (f *fake) Fatalf(string, ...any) { f.failed = true; panic(f) }
func (f *fake) Skipf(string, ...any)  { f.skipped = true; panic(f) }

func outcome(name string) (f *fake) {
	f = &fake{}
	defer func() {
		if r := recover(); r != nil && r != any(f) {
			panic(r)
		}
	}()
	programtest.Path(f, name)
	return f
}

func TestPath(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"mosquitto_pub", "undeclared"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	if got, want := programtest.Path(t, "mosquitto_pub"), filepath.Join(dir, "mosquitto_pub"); got != want {
		t.Errorf("Path(mosquitto_pub) = %q, want %q", got, want)
	}
	if _, err := exec.LookPath("undeclared"); err != nil {
		t.Fatal(err)
	}
	if f := outcome("undeclared"); !f.failed {
		t.Error("a program that is installed and not declared does not fail the test")
	}
	t.Setenv("CI", "")
	if f := outcome("gofmt"); !f.skipped {
		t.Error("a declared program that is missing does not skip the test")
	}
	t.Setenv("CI", "true")
	if f := outcome("gofmt"); !f.failed {
		t.Error("a declared program that is missing does not fail the test in CI")
	}
}
