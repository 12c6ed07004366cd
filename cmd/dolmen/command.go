package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// exitError is how a command ends the process with a status of its own. A nil err has been told already.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// isCommand reports whether the arguments name a command, and not a member's flags. Under etcd's name only etcd's
// own two words are commands; everything else is for its flag parser to refuse.
func (p *program) isCommand() bool {
	if len(p.args) == 0 || strings.HasPrefix(p.args[0], "-") {
		return false
	}
	return p.name != etcdName || slices.Contains(etcdCommands(), p.args[0])
}

// command runs the command that the arguments name and returns the exit status.
func (p *program) command() int {
	root := p.rootCommand()
	args := p.args
	word := args[0]
	if word == "help" && len(args) > 1 {
		word = args[1]
		if word == ctlName { // which has a tree of its own
			args = append([]string{ctlName, "help"}, args[2:]...)
		}
	}
	if !known(root, word) {
		fmt.Fprintf(p.stderr, "Error: %s\n", unknownCommand(root, word))
		return statusUsage
	}
	root.SetArgs(args)
	cmd, err := root.ExecuteC()
	var exit *exitError
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &exit):
		if exit.err != nil {
			fmt.Fprintln(p.stderr, "Error:", exit.err)
		}
		return exit.status
	}
	fmt.Fprintf(p.stderr, "Error: %v\nRun '%s --help' for what it takes.\n", err, cmd.CommandPath())
	return statusUsage
}

// rootCommand is the tree of commands. Without one of them the program is a member, which is not in the tree: its
// flags are etcd's, and so is the way they are parsed.
func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "dolmen",
		Short: "A metadata store that speaks the etcd v3 protocol",
		Long: "Dolmen is a metadata store that speaks the etcd v3 protocol.\n\n" +
			"Without a command it runs a member, and takes etcd's flags, environment and configuration file;\n" +
			"dolmen --help lists them. With a command it is one of the tools below.",
		Example: "  dolmen                                    a member on localhost:2379, its data in ./default.etcd\n" +
			"  dolmen --name a --data-dir /var/lib/a     one with a name and a place for its data\n" +
			"  dolmen help check                         what a command does, with an example",
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetUsageTemplate(usageTemplate)
	files := snapshotCommand(streams{out: p.stdout, err: p.stderr, terminal: p.terminal, listen: p.listen})
	root.AddCommand(p.ctlCommand(), p.checkCommand(), p.walCommand(), files, p.completionCommand(), p.versionCommand())
	for _, word := range etcdCommands() {
		root.AddCommand(p.etcdOnlyCommand(word))
	}
	root.InitDefaultHelpCmd()
	return root
}

// usageTemplate is cobra's, less what says nothing: the root's usage is a member's.
const usageTemplate = `Usage:{{if .HasParent}}{{if .Runnable}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{end}}{{else}}
  dolmen [flags of a member]
  dolmen COMMAND{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if or .IsAvailableCommand (eq .Name "help")}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}

"{{.CommandPath}} COMMAND --help" says more about one.{{end}}{{if and .HasParent .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}
`

func known(root *cobra.Command, word string) bool {
	return word == cobra.ShellCompRequestCmd || word == cobra.ShellCompNoDescRequestCmd ||
		slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == word || c.HasAlias(word) })
}

// suggestionDistance is how many letters a word may be off, cobra's figure.
const suggestionDistance = 2

func unknownCommand(root *cobra.Command, word string) string {
	var text strings.Builder
	fmt.Fprintf(&text, "there is no command %q\n", word)
	root.SuggestionsMinimumDistance = suggestionDistance
	if similar := root.SuggestionsFor(word); word != "" && len(similar) > 0 {
		fmt.Fprintf(&text, "Did you mean %s?\n", strings.Join(similar, " or "))
	}
	text.WriteString("Run 'dolmen help' for the commands, or 'dolmen --help' for the flags of a member.")
	return text.String()
}

// etcdCommands are the words that etcd's program knows besides its flags.
func etcdCommands() []string { return []string{"gateway", "grpc-proxy"} }

// etcdOnlyCommand stands for a command that only etcd's own program has.
func (p *program) etcdOnlyCommand(word string) *cobra.Command {
	return &cobra.Command{
		Use:                word,
		Short:              "Not part of dolmen: names the program that has it",
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(p.stderr, "%s is not part of dolmen; run etcd's own binary for it: etcd %s\n",
				word, strings.Join(p.args, " "))
			return &exitError{status: statusFailed}
		},
	}
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of the program and of the etcd it is compatible with",
		Example: "  dolmen version",
		Args:    cobra.NoArgs,
		Run:     func(*cobra.Command, []string) { printVersion(p.stdout) },
	}
}
