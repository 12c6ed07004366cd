package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/dolmen-io/dolmen/internal/inspect"
)

// statusUnknown says that nothing can be said: the files are in use, are not there, or cannot be read.
const statusUnknown = 3

// defaultDataDir is where a member without flags keeps its data.
const defaultDataDir = "default.etcd"

// dataDirFlags are those of the commands that look at a member's files, named as the member's are.
type dataDirFlags struct{ data, wal string }

func (d *dataDirFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.data, "data-dir", defaultDataDir, "the member's data directory")
	cmd.Flags().StringVar(&d.wal, "wal-dir", "", "the raft log's directory, if the member has one of its own")
}

func (p *program) checkCommand() *cobra.Command {
	var (
		at     dataDirFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what the data directory of a stopped member holds, and whether it is sound",
		Long: "Opens the data directory of a stopped member, reads everything in it and holds it against each other:\n" +
			"checksums, records, whether the raft log reaches from the engine's applied index to what is committed,\n" +
			"and whose log it is. Nothing is written. A running member is left alone. It takes as much memory as\n" +
			"the member does.\n\n" +
			"A directory that etcd has written is checked too, by the rules by which it is taken over.\n\n" +
			"Exit status: 0 it is sound; 1 it is damaged, and the findings say how and what to do; 2 the command\n" +
			"is called wrongly; 3 nothing can be said, because a member is running, nothing is there, or it cannot\n" +
			"be read.",
		Example: "  dolmen check\n  dolmen check --data-dir /var/lib/a\n  dolmen check --data-dir /var/lib/a --json | jq .findings",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			report, err := inspect.Check(at.data, at.wal)
			switch {
			case errors.Is(err, inspect.ErrInUse):
				err = fmt.Errorf("%w: stop it first, or ask it with: dolmen ctl endpoint status", err)
				return &exitError{statusUnknown, err}
			case err != nil:
				return &exitError{statusUnknown, err}
			}
			if asJSON {
				encoder := json.NewEncoder(p.stdout)
				encoder.SetIndent("", "  ")
				err = encoder.Encode(report)
			} else {
				err = report.WriteText(p.stdout)
			}
			switch {
			case err != nil:
				return &exitError{statusUnknown, err}
			case !report.Sound:
				return &exitError{status: statusFailed} // the report says why
			}
			return nil
		},
	}
	at.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}
