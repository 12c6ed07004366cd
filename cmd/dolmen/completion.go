package main

import (
	"github.com/spf13/cobra"
)

func (p *program) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script that completes commands and flags in a shell",
		Long: "Prints a script for a shell. Once the shell has read it, the tab key completes dolmen's commands and\n" +
			"their flags, those of dolmen ctl included.",
		Example: "  source <(dolmen completion bash)                                         this bash\n" +
			"  dolmen completion bash > /etc/bash_completion.d/dolmen                   every bash, on Linux\n" +
			"  dolmen completion zsh > \"${fpath[1]}/_dolmen\"                            every zsh, once compinit runs\n" +
			"  dolmen completion fish > ~/.config/fish/completions/dolmen.fish          every fish\n" +
			"  dolmen completion powershell | Out-String | Invoke-Expression            this PowerShell",
		DisableFlagsInUseLine: true,
		ValidArgs:             []string{"bash", "zsh", "fish", "powershell"},
		Args:                  cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := writeCompletion(cmd.Root(), args[0]); err != nil {
				return &exitError{status: statusFailed, err: err}
			}
			return nil
		},
	}
}

// writeCompletion writes the script of one of the shells that the command accepts.
func writeCompletion(root *cobra.Command, shell string) error {
	out := root.OutOrStdout()
	switch shell {
	case "bash":
		return root.GenBashCompletionV2(out, true)
	case "zsh":
		return root.GenZshCompletion(out)
	case "fish":
		return root.GenFishCompletion(out, true)
	default:
		return root.GenPowerShellCompletionWithDesc(out)
	}
}
