// Package lint checks the rules of this code base that no general tool knows: which package may import
// which, that every goroutine is listed with its owner, that packages are documented, and that
// functions and files stay of a size that can be read.
//
// It reads source only and resolves no types, so that it runs in a second and on code that does not
// compile yet. Its own tests run it on small bad sources, and TestModule on this module.
package lint

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// module is the import path of the root.
const module = "github.com/dolmen-io/dolmen"

// File is one parsed source file.
type File struct {
	Path    string // relative to the module's root, with slashes
	Package string // the folder of Path; "." at the root
	Lines   int
	Syntax  *ast.File

	set *token.FileSet
}

// Test reports whether the file is only built into tests: by its own name, or because its package is a
// suite that tests call.
func (f *File) Test() bool { return f.testFile() || strings.HasSuffix(f.Package, "test") }

func (f *File) testFile() bool { return strings.HasSuffix(f.Path, "_test.go") }

func (f *File) line(pos token.Pos) int { return f.set.Position(pos).Line }

// Imports are the paths that the file imports.
func (f *File) Imports() []string {
	var all []string
	for _, spec := range f.Syntax.Imports {
		// The parser has accepted the literal.
		if p, err := strconv.Unquote(spec.Path.Value); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// Finding is one breach of a rule.
type Finding struct {
	Path string // file or folder
	Line int    // 0 if it is about the whole
	Text string // what is wrong and what to do
}

func (f Finding) String() string {
	if f.Line == 0 {
		return f.Path + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Text)
}

func (f *File) finding(pos token.Pos, format string, args ...any) Finding {
	return Finding{Path: f.Path, Line: f.line(pos), Text: fmt.Sprintf(format, args...)}
}

// Parse parses one file. Path is relative to the module's root.
func Parse(name string, source []byte) (*File, error) {
	set := token.NewFileSet()
	syntax, err := parser.ParseFile(set, name, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	return &File{
		Path:    name,
		Package: path.Dir(name),
		Lines:   strings.Count(string(source), "\n"),
		Syntax:  syntax,
		set:     set,
	}, nil
}

// Load parses the hand-written files of the module at root. Modules nested in it, hidden folders,
// testdata and generated files are left out.
func Load(root string) ([]*File, error) {
	var files []*File
	err := filepath.WalkDir(root, func(full string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return skipFolder(full, name)
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		source, err := os.ReadFile(full)
		if err != nil {
			return err
		}
		file, err := Parse(filepath.ToSlash(name), source)
		if err != nil {
			return err
		}
		if !ast.IsGenerated(file.Syntax) {
			files = append(files, file)
		}
		return nil
	})
	return files, err
}

func skipFolder(full, name string) error {
	if name == "." {
		return nil
	}
	base := filepath.Base(name)
	if strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || base == "testdata" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(full, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

// Check runs every rule. Architecture is the text of ARCHITECTURE.md, whose table of goroutines is part
// of the rules. The findings are in the order of their paths.
func Check(files []*File, architecture string) []Finding {
	var all []Finding
	for _, rule := range []func([]*File) []Finding{checkDocs, checkDirection, checkThirdParty, checkSize, checkForbidden} {
		all = append(all, rule(files)...)
	}
	all = append(all, checkGoroutines(files, architecture)...)
	sort.SliceStable(all, func(i, j int) bool {
		if all[i].Path != all[j].Path {
			return all[i].Path < all[j].Path
		}
		return all[i].Line < all[j].Line
	})
	return all
}
