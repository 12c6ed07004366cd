package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3/command"
)

// ctlName is the command under which etcdctl's commands are found.
const ctlName = "ctl"

// ctlCommand hands everything behind its name to etcdctl's commands, in a tree of its own: they look at their root
// for the global flags, and what they take for the name of the program stands there.
func (p *program) ctlCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:                ctlName + " COMMAND",
		Short:              "etcdctl: read, write and watch keys, and look after a running cluster",
		Example:            "  dolmen ctl put greeting hello\n  dolmen ctl --endpoints=10.0.0.1:2379 endpoint status -w table\n  dolmen help ctl get",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			// As in etcdctl, the beginning of a name is enough. That is a switch of the library's, and nothing
			// else is executed in this process.
			cobra.EnablePrefixMatching = true
			root := p.ctlRoot()
			root.SetArgs(args)
			if err := root.Execute(); err != nil {
				return &exitError{status: statusFailed} // it has been told
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, last string) ([]string, cobra.ShellCompDirective) {
			return complete(p.ctlRoot(), append(args, last))
		},
	}
	return cmd
}

// ctlRoot puts etcdctl's commands together as its own program does, under our name. What it writes goes to the
// process's own streams, as do the commands.
func (p *program) ctlRoot() *cobra.Command {
	root := &cobra.Command{
		Use:         ctlName,
		Short:       "A simple command line client for etcd3.",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "dolmen " + ctlName},
	}
	addCtlFlags(root)
	root.AddGroup(command.NewKVGroup(), command.NewClusterMaintenanceGroup(), command.NewConcurrencyGroup(),
		command.NewAuthenticationGroup(), command.NewUtilityGroup())
	root.AddCommand(
		command.NewGetCommand(), command.NewPutCommand(), command.NewDelCommand(), command.NewTxnCommand(),
		command.NewCompactionCommand(), command.NewAlarmCommand(), command.NewDefragCommand(), command.NewEndpointCommand(),
		command.NewMoveLeaderCommand(), command.NewWatchCommand(), command.NewVersionCommand(), command.NewLeaseCommand(),
		command.NewMemberCommand(), command.NewSnapshotCommand(), command.NewMakeMirrorCommand(), command.NewLockCommand(),
		command.NewElectCommand(), command.NewAuthCommand(), command.NewUserCommand(), command.NewRoleCommand(),
		command.NewCheckCommand(), p.ctlCompletionCommand(), command.NewDowngradeCommand(), command.NewOptionsCommand(root),
	)
	command.SetHelpCmdGroup(root)
	root.Flags().BoolP("help", "h", false, "help for "+ctlName)
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { f.Hidden = true })
	root.Flags().Lookup("help").Hidden = true
	help := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help(cmd, args)
		fmt.Fprintln(cmd.OutOrStdout(), `Use "dolmen ctl options" for a list of global command-line options (applies to all commands).`)
	})
	rename(root)
	return root
}

// addCtlFlags defines the global flags, which the commands read by their names. Names, defaults and texts are
// etcdctl's; a test compares them.
func addCtlFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringSlice("endpoints", []string{"127.0.0.1:2379"}, "gRPC endpoints")
	f.Bool("debug", false, "enable client-side debug logging")
	f.StringP("write-out", "w", "simple", "set the output format (fields, json, protobuf, simple, table)")
	f.Bool("hex", false, "print byte strings as hex encoded strings")
	f.Duration("dial-timeout", 2*time.Second, "dial timeout for client connections")
	f.Duration("command-timeout", 5*time.Second, "timeout for short running command (excluding dial timeout)")
	f.Duration("keepalive-time", 2*time.Second, "keepalive time for client connections")
	f.Duration("keepalive-timeout", 6*time.Second, "keepalive timeout for client connections")
	f.Int("max-request-bytes", 0, "client-side request send limit in bytes (if 0, it defaults to 2.0 MiB (2 * 1024 * 1024).)")
	f.Int("max-recv-bytes", 0, `client-side response receive limit in bytes (if 0, it defaults to "math.MaxInt32")`)
	f.Bool("insecure-transport", true, "disable transport security for client connections")
	f.Bool("insecure-discovery", true, "accept insecure SRV records describing cluster endpoints")
	f.Bool("insecure-skip-tls-verify", false,
		"skip server certificate verification (CAUTION: this option should be enabled only for testing purposes)")
	f.String("cert", "", "identify secure client using this TLS certificate file")
	f.String("key", "", "identify secure client using this TLS key file")
	f.String("cacert", "", "verify certificates of TLS-enabled secure servers using this CA bundle")
	f.String("auth-jwt-token", "",
		"JWT token used for authentication (if this option is used, --user and --password should not be set)")
	f.String("user", "", "username[:password] for authentication (prompt if password is not supplied)")
	f.String("password", "", "password for authentication (if this option is used, --user option shouldn't include password)")
	f.StringP("discovery-srv", "d", "", "domain name to query for SRV records describing cluster endpoints")
	f.String("discovery-srv-name", "", "service name to query when using DNS discovery")
	formats := cobra.FixedCompletions([]string{"fields", "json", "protobuf", "simple", "table"}, cobra.ShellCompDirectiveDefault)
	if err := root.RegisterFlagCompletionFunc("write-out", formats); err != nil {
		panic(err) // only without the flag above
	}
}

// ctlCompletionCommand is etcdctl's, but the script is that of the program that a shell knows.
func (p *program) ctlCompletionCommand() *cobra.Command {
	cmd := command.NewCompletionCommand()
	cmd.Long = strings.NewReplacer("etcdctl completion", "dolmen completion", "etcdctl", "dolmen").Replace(cmd.Long)
	cmd.Run = nil
	cmd.RunE = func(_ *cobra.Command, args []string) error { return writeCompletion(p.rootCommand(), args[0]) }
	return cmd
}

// ownName is etcdctl's name where a text says how to call it, and not a path or an address that ends in it.
var ownName = regexp.MustCompile(`(^|[^/\w])etcdctl `)

// rename has the texts of a tree call the program as it is called here.
func rename(cmd *cobra.Command) {
	for _, text := range []*string{&cmd.Short, &cmd.Long, &cmd.Example} {
		*text = ownName.ReplaceAllString(*text, "${1}dolmen ctl ")
	}
	for _, child := range cmd.Commands() {
		rename(child)
	}
}

// complete asks a tree of commands what may stand for the last of the arguments, in the way that shells ask.
func complete(root *cobra.Command, args []string) ([]string, cobra.ShellCompDirective) {
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&bytes.Buffer{})
	root.SetArgs(append([]string{cobra.ShellCompRequestCmd}, args...))
	if err := root.Execute(); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	// One proposal a line, and last a colon and how to use them.
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	last := len(lines) - 1
	directive, err := strconv.Atoi(strings.TrimPrefix(lines[last], ":"))
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return lines[:last], cobra.ShellCompDirective(directive)
}
