package compat

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// coverage names the tests of this package that compare a method's answers to good requests, its errors to bad ones,
// and what callers of different rights get.
type coverage struct{ good, bad, rights []string }

// matrixTests are those that try every method as callers of every kind.
func matrixTests() []string {
	return []string{"TestSimpleTokens", "TestSimpleTokenForms", "TestExpiredSimpleToken", "TestSignedTokens", "TestForgedSignedTokens", "TestCertificates"}
}

// covered holds every method that is served, by its path.
func covered() map[string]coverage {
	out := map[string]coverage{}
	add := func(service string, methods map[string]coverage) {
		for name, c := range methods {
			c.rights = append(c.rights, matrixTests()...)
			out["/"+service+"/"+name] = c
		}
	}
	both := func(names ...string) coverage { return coverage{good: names, bad: names} }
	add("etcdserverpb.KV", map[string]coverage{
		"Range": {good: []string{"TestRangeOptions", "TestRangeRevisionFilters", "TestRandom"}, bad: []string{"TestRangeBadInput", "TestWireForms", "TestSizeLimits"},
			rights: []string{"TestPermissionRanges", "TestOpenEndedRanges"}},
		"RangeStream": {good: []string{"TestRangeStream", "TestRandom"}, bad: []string{"TestRangeStream"}, rights: []string{"TestOpenEndedRanges"}},
		"Put": {good: []string{"TestPut", "TestRandom"}, bad: []string{"TestPut", "TestWireForms", "TestSizeLimits", "TestAlarm", "TestQuotaExceeded"},
			rights: []string{"TestPermissionTypes", "TestLeasesOfOthers", "TestAlarmsAndPermissions"}},
		"DeleteRange": {good: []string{"TestDeleteRange", "TestRandom"}, bad: []string{"TestDeleteRange", "TestWireForms"}, rights: []string{"TestPermissionTypes", "TestOpenEndedRanges"}},
		"Txn":         {good: []string{"TestTxnCompare", "TestTxnOperations", "TestRandom"}, bad: []string{"TestTxnBadInput", "TestTxnDuplicates", "TestWireForms"}, rights: []string{"TestPermissionTypes"}},
		"Compact":     {good: []string{"TestCompact", "TestRandom"}, bad: []string{"TestCompact"}, rights: []string{"TestAlarmsAndPermissions"}},
	})
	add("etcdserverpb.Watch", map[string]coverage{
		"Watch": {good: []string{"TestWatchLive", "TestWatchCatchUp", "TestWatchProgress", "TestWatchFragments", "TestRandom"},
			bad: []string{"TestWatchCreate", "TestWatchEmptyKey", "TestWatchCompacted", "TestWatchCancel"}, rights: []string{"TestWatchAfterRevocation", "TestOpenEndedRanges"}},
	})
	add("etcdserverpb.Lease", map[string]coverage{
		"LeaseGrant":      both("TestLeaseGrant", "TestLeaseMinimumTTL"),
		"LeaseRevoke":     {good: []string{"TestLeaseAttachAndRevoke"}, bad: []string{"TestLeaseAttachAndRevoke"}, rights: []string{"TestLeasesOfOthers"}},
		"LeaseKeepAlive":  {good: []string{"TestLeaseKeepAlive"}, bad: []string{"TestLeaseKeepAlive"}, rights: []string{"TestLeasesOfOthers"}},
		"LeaseTimeToLive": {good: []string{"TestLeaseGrant", "TestLeaseAttachAndRevoke"}, bad: []string{"TestLeaseGrant"}, rights: []string{"TestLeasesOfOthers"}},
		"LeaseLeases":     {good: []string{"TestLeaseList"}, bad: []string{"TestLeaseExpiry"}, rights: []string{"TestLeasesOfOthers"}},
	})
	add("etcdserverpb.Cluster", map[string]coverage{
		"MemberAdd":     {good: []string{"TestLearnerOfASingleMember", "TestSecondVoter"}, bad: []string{"TestMemberAddURLs", "TestLearnerOfASingleMember", "TestReconfigurationOfThree"}},
		"MemberRemove":  both("TestLearnerOfASingleMember", "TestLooseReconfiguration"),
		"MemberUpdate":  both("TestLearnerOfASingleMember"),
		"MemberPromote": both("TestLearnerOfASingleMember", "TestLooseReconfiguration", "TestReconfigurationOfThree"),
		"MemberList":    both("TestMemberListAndStatus", "TestSecondVoter"),
	})
	add("etcdserverpb.Maintenance", map[string]coverage{
		"Alarm":      {good: []string{"TestAlarm", "TestRandom"}, bad: []string{"TestAlarm"}, rights: []string{"TestAlarmsAndPermissions"}},
		"Status":     both("TestMemberListAndStatus", "TestAlarm"),
		"Defragment": both("TestDefragment"),
		"Hash":       both("TestHash"),
		"HashKV":     both("TestHashKV", "TestCompactionHashes", "TestRandom"),
		"Snapshot":   both("TestSnapshotStream"),
		"MoveLeader": both("TestLearnerOfASingleMember", "TestLeadership"),
		"Downgrade":  both("TestDowngrade"),
	})
	management := coverage{good: []string{"TestAuthManagement", "TestRandom"}, bad: []string{"TestAuthManagement"}, rights: []string{"TestAuthManagement"}}
	auth := map[string]coverage{"Authenticate": {good: []string{"TestLogin"}, bad: []string{"TestLogin"}, rights: []string{"TestTokensEnd"}}}
	for _, m := range etcdRPCs() {
		if name, ok := strings.CutPrefix(m.path, "/etcdserverpb.Auth/"); ok && name != "Authenticate" {
			auth[name] = management
		}
	}
	add("etcdserverpb.Auth", auth)
	add("v3lockpb.Lock", map[string]coverage{"Lock": both("TestLock", "TestLockWithoutLease"), "Unlock": both("TestLock")})
	add("v3electionpb.Election", map[string]coverage{
		"Campaign": both("TestElection"), "Proclaim": both("TestElection"), "Leader": both("TestElection"), "Resign": both("TestElection"), "Observe": both("TestObserve"),
	})
	// Health is open to everybody, which the tests of it show that know no users.
	for _, m := range healthRPCs() {
		out[m.path] = coverage{good: []string{"TestHealthService"}, bad: []string{"TestHealthService"}, rights: []string{"TestHealthService"}}
	}
	return out
}

// TestEveryRPCIsCovered holds the methods of the generated service descriptors against covered, and covered against the
// sources: each test that it names exists and, itself or through what it calls, makes the method's kind of request.
func TestEveryRPCIsCovered(t *testing.T) {
	uses := usedNames(t)
	list := covered()
	for _, m := range append(etcdRPCs(), healthRPCs()...) {
		c, ok := list[m.path]
		if !ok || len(c.good) == 0 || len(c.bad) == 0 || len(c.rights) == 0 {
			t.Errorf("%s: no test is named for its good inputs, its bad ones, or its callers: %+v", m.path, c)
			continue
		}
		delete(list, m.path)
		input, name := string(m.input.Descriptor().Name()), filepath.Base(m.path)
		for _, test := range slices.Concat(c.good, c.bad, c.rights) {
			switch names, exists := uses[test]; {
			case !exists || !strings.HasPrefix(test, "Test"):
				t.Errorf("%s: there is no test %s", m.path, test)
			case !names[input] && !names[strconv.Quote(name)]: // random sequences name some requests by their methods
				t.Errorf("%s: %s makes no %s", m.path, test, input)
			}
		}
	}
	for path := range list {
		t.Errorf("%s has tests but is no method", path)
	}
}

// usedNames returns, for each function of this package, every identifier and literal in it and in the functions of the package that
// it uses.
func usedNames(t *testing.T) map[string]map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	direct := map[string]map[string]bool{}
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			for name, node := range declared(d) {
				if direct[name] == nil {
					direct[name] = map[string]bool{}
				}
				ast.Inspect(node, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok {
						direct[name][id.Name] = true
					}
					return true
				})
			}
		}
	}
	for changed := true; changed; {
		changed = false
		for _, names := range direct {
			for used := range maps.Clone(names) {
				for further := range direct[used] {
					changed = changed || !names[further]
					names[further] = true
				}
			}
		}
	}
	return direct
}

// declared returns the functions and variables of a declaration.
func declared(d ast.Decl) map[string]ast.Node {
	out := map[string]ast.Node{}
	switch d := d.(type) {
	case *ast.FuncDecl:
		out[d.Name.Name] = d
	case *ast.GenDecl:
		for _, s := range d.Specs {
			if v, ok := s.(*ast.ValueSpec); ok {
				for _, name := range v.Names {
					out[name.Name] = v
				}
			}
		}
	}
	return out
}

// TestOnlyAloneNamesTests: who renames a test takes it along in the table.
func TestOnlyAloneNamesTests(t *testing.T) {
	uses := usedNames(t)
	for name := range onlyAlone {
		if uses[name] == nil || !strings.HasPrefix(name, "Test") {
			t.Errorf("there is no test %s", name)
		}
	}
}
