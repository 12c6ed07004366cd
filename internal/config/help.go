package config

import (
	"fmt"
	"strings"
)

// Usage is the short help: how the program called name is run.
func Usage(name string) string {
	return strings.ReplaceAll(`Usage:

  NAME [flags]
    Run a member. Without flags: a cluster of one, clients on http://localhost:2379,
    data in ./default.etcd.

  NAME --config-file FILE
    Run a member as a YAML or JSON file says, instead of flags and environment.

  NAME --version
  NAME --help

A flag may also be given as an environment variable: --listen-client-urls is
DOLMEN_LISTEN_CLIENT_URLS or ETCD_LISTEN_CLIENT_URLS.

First steps, with etcd's client:

  NAME
  etcdctl put greeting hello
  etcdctl get greeting
`, "NAME", name)
}

// Help is the list of every flag with its default, in groups.
func Help() string {
	var b strings.Builder
	missing := unbuilt()
	group := ""
	for _, o := range newTable(Default()).options {
		if o.hidden {
			continue
		}
		if o.group != group {
			group = o.group
			fmt.Fprintf(&b, "\n%s:\n", group)
		}
		shown := o.DefValue
		if o.shown != "" {
			shown = o.shown
		}
		fmt.Fprintf(&b, "  --%s '%s'\n    %s\n", o.Name, shown, o.Usage)
		if reason, found := missing[o.Name]; found {
			fmt.Fprintf(&b, "    Not supported yet: %s.\n", reason)
		}
	}
	b.WriteString("\nFeature gates:\n")
	for _, gate := range KnownGates() {
		fmt.Fprintf(&b, "  %s=true|false (%s - default=%t)\n", gate.Name, gate.Stage, gate.Default)
	}
	return b.String()
}
