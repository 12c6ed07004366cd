package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/dolmen-io/dolmen/internal/inspect"
	"github.com/dolmen-io/dolmen/internal/node"
	"github.com/dolmen-io/dolmen/internal/wal"
)

func (p *program) walCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "wal COMMAND",
		Short:   "Look into a raft log",
		Long:    "Looks into a raft log, which is in etcd's format: that of a member of dolmen, or of etcd.",
		Example: "  dolmen wal dump --data-dir /var/lib/a",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return errors.New("a command is missing: " + cmd.Commands()[0].Name())
		},
	}
	cmd.AddCommand(p.walDumpCommand())
	return cmd
}

func (p *program) walDumpCommand() *cobra.Command {
	var (
		at dataDirFlags
		o  inspect.DumpOptions
	)
	cmd := &cobra.Command{
		Use:   "dump",
		Short: "Print a raft log record by record",
		Long: "Prints the records of a raft log with the place of each: whose log it is, snapshot records, raft's state,\n" +
			"and entries with the request that each holds. Values are printed as sizes unless --values is given;\n" +
			"passwords are not printed. Nothing is written, and any size of log takes little memory.\n\n" +
			"--kind takes the names of records (" + strings.Join([]string{"crc", "metadata", "snapshot", "state", "entry"}, ", ") + ") and of the requests in\n" +
			"entries (put, delete_range, txn, compaction, lease_grant, lease_revoke, auth_user_add, conf_change, ...).\n\n" +
			"Exit status: 0 the log is sound; 1 it is damaged: what precedes the damage has been printed, and the error\n" +
			"names the place; 2 the command is called wrongly; 3 there is no log, or it cannot be read.",
		Example: "  dolmen wal dump --data-dir /var/lib/a\n" +
			"  dolmen wal dump --wal-dir /var/lib/a/member/wal --from 1000 --to 1010\n" +
			"  dolmen wal dump --data-dir /var/lib/a --kind put,delete_range --json | jq -r .request.key",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, kind := range o.Kinds {
				if !slices.Contains(inspect.DumpKinds(), kind) {
					return fmt.Errorf("there is no kind %q; these are: %s", kind, strings.Join(inspect.DumpKinds(), ", "))
				}
			}
			if o.To != 0 && o.To < o.From {
				return fmt.Errorf("--to %d is before --from %d", o.To, o.From)
			}
			return p.dump(node.NewLayout(at.data, at.wal).WAL, o)
		},
	}
	at.add(cmd)
	cmd.Flags().Uint64Var(&o.From, "from", 0, "the first index to print")
	cmd.Flags().Uint64Var(&o.To, "to", 0, "the last index to print; 0 is the end")
	cmd.Flags().StringSliceVar(&o.Kinds, "kind", nil, "kinds of records and requests to print, by commas; all without it")
	cmd.Flags().BoolVar(&o.Values, "values", false, "print what keys are set to, too")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print a JSON object a line")
	return cmd
}

func (p *program) dump(dir string, o inspect.DumpOptions) error {
	done, err := inspect.DumpLog(p.stdout, dir, o)
	if done.Running {
		fmt.Fprintln(p.stderr, "note: a member has this log open; its end may be incomplete")
	}
	if done.Torn != nil {
		fmt.Fprintf(p.stderr, "note: a crash has torn the end, %s at offset %d; a member's start cuts it off\n", done.Torn.Path, done.Torn.Offset)
	}
	switch {
	case errors.Is(err, wal.ErrCorrupt), errors.Is(err, inspect.ErrRequest):
		return &exitError{statusFailed, err}
	case err != nil:
		return &exitError{statusUnknown, err}
	}
	return nil
}
