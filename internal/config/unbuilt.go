package config

import (
	"fmt"
	"slices"
)

const noTracing = "tracing is not built"

// unbuilt is every flag whose feature this version does not have, and what is missing. The commit
// that builds a feature deletes its line.
func unbuilt() map[string]string {
	return map[string]string{
		"enable-distributed-tracing":        noTracing,
		"distributed-tracing-address":       noTracing,
		"distributed-tracing-service-name":  noTracing,
		"distributed-tracing-instance-id":   noTracing,
		"distributed-tracing-sampling-rate": noTracing,

		"memory-mlock":         "locking memory is not built",
		"socket-reuse-port":    "socket options are not built",
		"socket-reuse-address": "socket options are not built",
	}
}

// builtGates are the feature gates that may differ from their defaults: remaining lease times are
// always kept here, which is what the first two ask for.
func builtGates() []string {
	return []string{GateLeaseCheckpoint, GateLeaseCheckpointPersist, GateCompactHashCheck, GateInitialCorruptCheck}
}

// checkUnbuilt refuses a setting that would be silently without effect.
func (c *Config) checkUnbuilt() error {
	missing, defaults := unbuilt(), newTable(Default())
	for _, o := range newTable(c).options {
		reason, listed := missing[o.Name]
		if listed && o.Value.String() != defaults.find(o.Name).Value.String() {
			return &UnbuiltError{Setting: "--" + o.Name, Reason: reason}
		}
	}
	if _, err := c.InitialMembers(); err != nil {
		return fmt.Errorf("error setting up initial cluster: %w", err)
	}
	for _, gate := range KnownGates() {
		if on := c.FeatureGates.Enabled(gate.Name); on != gate.Default && !slices.Contains(builtGates(), gate.Name) {
			return &UnbuiltError{Setting: fmt.Sprintf("feature gate %s=%t", gate.Name, on), Reason: "only its default is built"}
		}
	}
	return nil
}
