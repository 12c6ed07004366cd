package lint

import (
	"slices"
	"strings"
)

// layers is the order of the packages, top first. A package may import those of later layers only, so
// neither its own layer nor an earlier one. A new package is put here before it is written.
func layers() [][]string {
	return [][]string{
		{"cmd/dolmen"},
		{"embed"},
		{"internal/inspect"},
		{"internal/node"},
		{"internal/config"},
		{"internal/discovery"},
		{"internal/etcdapi"},
		{"internal/coordination"},
		{"internal/httpapi"},
		{"internal/rpc"},
		{"internal/rpc/transport"},
		{"internal/sim"},
		{"internal/interchange"},
		{"internal/state"},
		{"internal/corruption"},
		{"internal/mvcc", "internal/lease", "internal/auth", "internal/membership", "internal/alarm"},
		{"internal/watch"},
		{"internal/consensus"},
		{"internal/wal"},
		{"internal/peer"},
		{"internal/engine/enginetest"},
		{"internal/engine/memory", "internal/engine/pebble", "internal/engine/rocksdb"},
		{"internal/engine/gate"},
		{"internal/engine"},
		{"internal/compaction"},
		{"internal/certs/certstest"},
		{"internal/certs"},
		{"internal/telemetry"},
		// Recipes for clients: they use no part of the server.
		{"concurrency"},
		{"internal/lint"},
	}
}

func layerOf(pkg string) (int, bool) {
	for i, layer := range layers() {
		if slices.Contains(layer, pkg) {
			return i, true
		}
	}
	return 0, false
}

// checkDirection keeps imports inside the module pointing down. Tests may import what they need to
// drive a package.
func checkDirection(files []*File) []Finding {
	var all []Finding
	reported := map[string]bool{}
	for _, f := range files {
		from, known := layerOf(f.Package)
		if !known {
			if !reported[f.Package] {
				all = append(all, Finding{Path: f.Package, Text: "package has no place in the order of packages; add it to layers in internal/lint"})
			}
			reported[f.Package] = true
			continue
		}
		if f.Test() {
			continue
		}
		for _, spec := range f.Syntax.Imports {
			imported, inside := strings.CutPrefix(strings.Trim(spec.Path.Value, "\"`"), module+"/")
			if !inside {
				continue
			}
			to, known := layerOf(imported)
			if known && to <= from {
				all = append(all, f.finding(spec.Pos(), "%s may not import %s: imports point down the order of packages, "+
					"never up or sideways; hand the value over, or move the code", f.Package, imported))
			}
		}
	}
	return all
}

// confinement says that a library may be imported only in some packages.
type confinement struct {
	library string   // an import path and everything below it
	except  []string // paths below library that are free of the rule
	in      []string // packages; none means nowhere
	tests   bool     // whether tests may import it all the same
	testsIn []string // packages whose tests may
	why     string
}

func confinements() []confinement {
	const rewritten = "it is the part of etcd that this project writes anew"
	server := "go.etcd.io/etcd/server/v3"
	return []confinement{
		{library: "go.etcd.io/raft/v3", except: []string{"go.etcd.io/raft/v3/raftpb"},
			in: []string{"internal/consensus", "internal/sim", "internal/peer"}, tests: true, why: "only the loop speaks raft; rafthttp reports in its terms"},
		{library: "go.etcd.io/raft/v3/raftpb",
			in: []string{"internal/consensus", "internal/sim", "internal/wal", "internal/node", "internal/state",
				"internal/membership", "internal/peer", "internal/inspect", "internal/interchange"},
			tests: true, why: "raft's messages stay where the log and the membership are handled"},
		{library: "github.com/cockroachdb/pebble", in: []string{"internal/engine/pebble"},
			testsIn: []string{"internal/node"}, why: "engines are behind the engine interface"},
		{library: "C", in: []string{"internal/engine/rocksdb"}, why: "the program is Go, but for the engine behind a build tag"},
		{library: "go.etcd.io/bbolt", in: []string{"internal/interchange"}, tests: true, why: "it is a file format to us, not a store"},
		{library: "google.golang.org/grpc",
			in: []string{"internal/rpc", "internal/rpc/transport", "internal/etcdapi", "internal/coordination", "cmd/dolmen", "concurrency", "embed",
				"internal/httpapi"}, tests: true, // the gateway in it is a client of the services
			why: "what lies below the services does not know how requests arrive"},
		{library: "go.etcd.io/etcd/etcdctl", in: []string{"cmd/dolmen"}, why: "it is a command's, and global state"},
		{library: "github.com/spf13", in: []string{"cmd/dolmen"}, why: "the command line ends there"},
		{library: "github.com/grpc-ecosystem/grpc-gateway", in: []string{"internal/httpapi"}, why: "the JSON gateway is there"},
		{library: "github.com/coder/websocket", in: []string{"internal/httpapi"}, tests: true, why: "only the JSON gateway has websockets"},
		{library: module + "/internal/engine/enginetest", tests: true, why: "it is a suite for tests"},
		{library: module + "/internal/certs/certstest", tests: true, why: "it makes certificates for tests"},
		{library: server + "/etcdserver", except: []string{server + "/etcdserver/api/rafthttp",
			server + "/etcdserver/api/snap", server + "/etcdserver/api/v2stats", server + "/etcdserver/api/v3lock/v3lockpb",
			server + "/etcdserver/api/v3election/v3electionpb"}, why: rewritten},
		{library: server + "/storage/mvcc", why: rewritten},
		{library: server + "/storage/backend", why: rewritten},
		{library: server + "/storage/schema", why: rewritten},
		{library: server + "/lease", except: []string{server + "/lease/leasepb"}, why: rewritten},
		{library: server + "/auth", why: rewritten},
		{library: server + "/embed", why: rewritten},
	}
}

func under(importPath, library string) bool {
	rest, found := strings.CutPrefix(importPath, library)
	return found && (rest == "" || rest[0] == '/')
}

func checkThirdParty(files []*File) []Finding {
	var all []Finding
	rules := confinements()
	for _, f := range files {
		for _, spec := range f.Syntax.Imports {
			imported := strings.Trim(spec.Path.Value, "\"`")
			for _, rule := range rules {
				if rule.forbids(f, imported) {
					all = append(all, f.finding(spec.Pos(), "%s may not import %s: %s", f.Package, imported, rule.why))
				}
			}
		}
	}
	return all
}

func (c confinement) forbids(f *File, imported string) bool {
	if !under(imported, c.library) && !under(imported, c.library+"/v2") {
		return false
	}
	for _, free := range c.except {
		if under(imported, free) {
			return false
		}
	}
	if f.Test() && (c.tests || slices.Contains(c.testsIn, f.Package)) {
		return false
	}
	return !slices.Contains(c.in, f.Package)
}
