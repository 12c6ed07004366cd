package lint

import (
	"go/ast"
	"go/token"
	"regexp"
	"slices"
	"strings"
)

// Sizes that can be read: a function fits a screen, a file holds one subject.
const (
	maxFunctionLines = 70
	maxFileLines     = 500
)

// exceptions are the functions ("path:Function") and files ("path") that may be longer, or sleep or skip
// in a test, each with the reason. Paths are relative to the module.
func exceptions() map[string]string {
	return map[string]string{
		"internal/config/unbuilt.go:unbuilt":                   "a table with a line for each flag",
		"internal/config/config.go:Default":                    "a table with a line for each default",
		"internal/watch/model_test.go:client.churn":            "paces the load; nothing waits for it",
		"internal/watch/model_test.go:client.read":             "paces the load; nothing waits for it",
		"internal/engine/enginetest/enginetest.go:testCompact": "compaction on request is an optional interface",
		"robustness/fulldisk_test.go:TestFullDisk":             "needs file systems of its own, which not every sandbox lets it mount",
	}
}

// checkDocs demands a package comment that begins as godoc wants it.
func checkDocs(files []*File) []Finding {
	documented := map[string]bool{}
	names := map[string]string{}
	for _, f := range files {
		if f.testFile() {
			continue
		}
		name := f.Syntax.Name.Name
		names[f.Package] = name
		if doc := f.Syntax.Doc.Text(); strings.HasPrefix(doc, "Package "+name+" ") ||
			name == "main" && strings.HasPrefix(doc, "Command ") {
			documented[f.Package] = true
		}
	}
	var all []Finding
	for pkg, name := range names {
		if !documented[pkg] {
			all = append(all, Finding{Path: pkg, Text: "package has no comment that begins \"Package " + name + " \""})
		}
	}
	return all
}

// checkSize measures functions and files that are not tests; a table of test cases may be long.
func checkSize(files []*File) []Finding {
	var all []Finding
	excused := exceptions()
	for _, f := range files {
		if f.Test() {
			continue
		}
		if _, ok := excused[f.Path]; f.Lines > maxFileLines && !ok {
			all = append(all, Finding{Path: f.Path, Text: "file has more than 500 lines; give each subject its own"})
		}
		for _, decl := range f.Syntax.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			lines := f.line(function.End()) - f.line(function.Pos()) + 1
			name := functionName(function)
			if _, ok := excused[f.Path+":"+name]; lines > maxFunctionLines && !ok {
				all = append(all, f.finding(function.Pos(), "%s has %d lines, more than a screen of %d", name, lines, maxFunctionLines))
			}
		}
	}
	return all
}

// functionName is "F" or "T.F".
func functionName(function *ast.FuncDecl) string {
	if function.Recv == nil || len(function.Recv.List) == 0 {
		return function.Name.Name
	}
	receiver := function.Recv.List[0].Type
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver = t.X
		case *ast.IndexExpr:
			receiver = t.X
		case *ast.IndexListExpr:
			receiver = t.X
		case *ast.Ident:
			return t.Name + "." + function.Name.Name
		default:
			return function.Name.Name
		}
	}
}

// checkForbidden finds init functions, and in tests what makes them flaky or silent.
func checkForbidden(files []*File) []Finding {
	var all []Finding
	for _, f := range files {
		for _, decl := range f.Syntax.Decls {
			function, ok := decl.(*ast.FuncDecl)
			if ok && function.Recv == nil && function.Name.Name == "init" {
				all = append(all, f.finding(function.Pos(), "no init functions: what a package needs is handed to it"))
			}
		}
		if f.Test() {
			all = append(all, forbiddenCalls(f)...)
		}
	}
	return all
}

// CheckTests holds the files of a module that is all tests to the rules for tests.
func CheckTests(files []*File) []Finding {
	all := checkDocs(files)
	for _, f := range files {
		all = append(all, forbiddenCalls(f)...)
	}
	return all
}

func forbiddenCalls(f *File) []Finding {
	var all []Finding
	excused := exceptions()
	for _, decl := range f.Syntax.Decls {
		if function, ok := decl.(*ast.FuncDecl); ok {
			if _, ok := excused[f.Path+":"+functionName(function)]; ok {
				continue
			}
		}
		all = append(all, forbiddenIn(f, decl)...)
	}
	return all
}

func forbiddenIn(f *File, decl ast.Decl) []Finding {
	var all []Finding
	// time.Sleep is the clock's inside testing/synctest: there it waits for nothing real.
	simulated := slices.Contains(f.Imports(), "testing/synctest")
	ast.Inspect(decl, func(n ast.Node) bool {
		selector, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		of, _ := selector.X.(*ast.Ident)
		switch name := selector.Sel.Name; {
		case of == nil:
		case of.Name == "time" && name == "Sleep" && !simulated:
			all = append(all, f.finding(n.Pos(), "no time.Sleep in a test: wait for the condition, or use testing/synctest"))
		case of.Name != "t" && of.Name != "b" && of.Name != "tb":
		case name == "Skip" || name == "Skipf" || name == "SkipNow":
			all = append(all, f.finding(n.Pos(), "no skipped tests: a test that cannot run here belongs elsewhere"))
		}
		return true
	})
	return all
}

// goroutineLine is a row of the table: | `path.go:Function` | owner | queue | stop |.
var goroutineLine = regexp.MustCompile("(?m)^\\| `([^`]+\\.go:[^`]+)` \\|([^|]+)\\|([^|]+)\\|([^|]+)\\|")

// checkGoroutines compares the go statements with the table in ARCHITECTURE.md, both ways.
func checkGoroutines(files []*File, architecture string) []Finding {
	var all []Finding
	listed, used := map[string]bool{}, map[string]bool{}
	for _, row := range goroutineLine.FindAllStringSubmatch(architecture, -1) {
		listed[row[1]] = true
		for _, cell := range row[2:] {
			if strings.TrimSpace(cell) == "" {
				all = append(all, Finding{Path: "ARCHITECTURE.md", Text: "goroutine " + row[1] + " needs an owner, a queue and a stop"})
				break
			}
		}
	}
	for _, f := range files {
		if f.Test() {
			continue
		}
		for _, decl := range f.Syntax.Decls {
			where := f.Path + ":"
			if function, ok := decl.(*ast.FuncDecl); ok {
				where += functionName(function)
			}
			for _, pos := range starts(decl) {
				used[where] = true
				if !listed[where] {
					all = append(all, f.finding(pos, "goroutine is not listed; add `%s` to the table in ARCHITECTURE.md "+
						"with its owner, its queue and how it stops", where))
				}
			}
		}
	}
	for where := range listed {
		if !used[where] {
			all = append(all, Finding{Path: "ARCHITECTURE.md", Text: "goroutine " + where + " is listed but not started there"})
		}
	}
	return all
}

// starts are the go statements in a declaration, and the calls of a method Go with a function, which is
// how sync.WaitGroup and errgroup start goroutines.
func starts(decl ast.Decl) []token.Pos {
	var all []token.Pos
	ast.Inspect(decl, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			all = append(all, n.Pos())
		case *ast.CallExpr:
			selector, ok := n.Fun.(*ast.SelectorExpr)
			if ok && selector.Sel.Name == "Go" && len(n.Args) == 1 {
				all = append(all, n.Pos())
			}
		}
		return true
	})
	return all
}
