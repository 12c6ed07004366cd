package compat

import (
	"flag"
	"strings"
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
)

// role is which member of which cluster a comparison talks to.
type role string

const (
	alone    role = ""         // the only member
	leader   role = "leader"   // of three members
	follower role = "follower" // of three members
)

// roles are those in a cluster of three.
var roles = []role{leader, follower}

var endpoint = flag.String("endpoint", "", "whom comparisons talk to: leader or follower of three members; empty for an only member")

// chosenRole is the role that the flag asks for.
func chosenRole(t *testing.T) role {
	t.Helper()
	switch r := role(*endpoint); r {
	case alone, leader, follower:
		return r
	}
	t.Fatalf("-endpoint is %q, want leader, follower or nothing", *endpoint)
	return alone
}

// onlyAlone are the tests that make no sense with three members, and why. Their names are of whole tests.
var onlyAlone = map[string]string{
	"TestSecureConnections": "is about one listener and no member behind it",
	"TestSecureChanges":     "is about one listener and no member behind it",
	"TestQuotaFills":        "fills files whose sizes are each member's own",
	// What three members answer to reconfigurations: TestReconfigurationOfThree.
	"TestLearnerOfASingleMember": "changes the only member's URLs, and removes it",
	"TestSecondVoter":            "has an only member lose its quorum",
	"TestLooseReconfiguration":   "counts the votes of an only member",
}

// leftOut reports whether a test makes no sense in the chosen role.
func leftOut(t *testing.T) bool {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	reason := onlyAlone[name]
	if reason == "" || chosenRole(t) == alone {
		return false
	}
	t.Logf("only for a member that stands alone: it %s", reason)
	return true
}

// Lengths of scenarios: slow ones are left out of short runs.
const (
	quick = false
	slow  = true
)

// compareMembers is compare for a scenario that is about three members: in the chosen role, and without a choice in each.
func compareMembers(t *testing.T, isSlow bool, opts harness.Options, scenario func(*Recorder)) {
	t.Helper()
	t.Parallel()
	chosen := chosenRole(t)
	for _, where := range roles {
		if chosen != alone && chosen != where || isSlow && testing.Short() {
			continue
		}
		t.Run(string(where), func(t *testing.T) {
			t.Parallel()
			compareIn(t, where, opts, scenario)
		})
	}
}
