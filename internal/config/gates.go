package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Names of etcd's feature gates that Dolmen's own code asks about.
const (
	GateLeaseCheckpoint        = "LeaseCheckpoint"
	GateLeaseCheckpointPersist = "LeaseCheckpointPersist"
	GateCompactHashCheck       = "CompactHashCheck"
	GateInitialCorruptCheck    = "InitialCorruptCheck"
)

// Gate is one of etcd's named switches.
type Gate struct {
	Name    string
	Stage   string // "ALPHA" or "BETA", as the metric etcd_server_feature_enabled spells it
	Default bool
}

// KnownGates are the switches of etcd 3.7, by name. The two checks of data are on here and off in etcd: they
// cost next to nothing.
func KnownGates() []Gate {
	return []Gate{
		{GateCompactHashCheck, "ALPHA", true},
		{"FastLeaseKeepAlive", "BETA", true},
		{GateInitialCorruptCheck, "ALPHA", true},
		{GateLeaseCheckpoint, "ALPHA", false},
		{GateLeaseCheckpointPersist, "ALPHA", false},
		{"PriorityRequest", "ALPHA", false},
		{"SetMemberLocalAddr", "ALPHA", false},
		{"StopGRPCServiceOnDefrag", "ALPHA", false},
		{"TxnModeWriteWithSharedBuffer", "BETA", true},
	}
}

// FeatureGates holds the gates that were set; the others have their defaults. The zero value is all
// defaults. It is a [flag.Value] for "A=true,B=false", where AllAlpha and AllBeta stand for every gate
// of that stage that is not itself named.
type FeatureGates struct {
	set map[string]bool
}

// Enabled reports the value of a known gate; an unknown one is off.
func (g *FeatureGates) Enabled(name string) bool {
	if v, ok := g.set[name]; ok {
		return v
	}
	for _, gate := range KnownGates() {
		if gate.Name != name {
			continue
		}
		if all, ok := g.set[allOf(gate.Stage)]; ok {
			return all
		}
		return gate.Default
	}
	return false
}

func allOf(stage string) string {
	if stage == "BETA" {
		return "AllBeta"
	}
	return "AllAlpha"
}

// Set adds the gates in text; a later value for the same gate wins.
func (g *FeatureGates) Set(text string) error {
	parsed := map[string]bool{}
	for pair := range strings.SplitSeq(text, ",") {
		if pair == "" {
			continue
		}
		name, value, found := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found {
			return fmt.Errorf("missing bool value for %s", name)
		}
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("invalid value of %s=%s, err: %w", name, value, err)
		}
		if !knownGate(name) {
			return fmt.Errorf("unrecognized feature gate: %s", name)
		}
		parsed[name] = on
	}
	if g.set == nil {
		g.set = parsed
		return nil
	}
	for name, on := range parsed {
		g.set[name] = on
	}
	return nil
}

func knownGate(name string) bool {
	if name == "AllAlpha" || name == "AllBeta" {
		return true
	}
	return slices.ContainsFunc(KnownGates(), func(g Gate) bool { return g.Name == name })
}

// String is the gates that were set, sorted, in the form that Set reads.
func (g *FeatureGates) String() string {
	pairs := make([]string, 0, len(g.set))
	for name, on := range g.set {
		pairs = append(pairs, name+"="+strconv.FormatBool(on))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}
