package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/interchange"
	"github.com/dolmen-io/dolmen/internal/node"
)

// streams are where a command writes: what it is asked for, and what a person watches meanwhile.
type streams struct {
	out, err io.Writer
	terminal bool // whether err is one
	// listen returns signals that are to end the command, which otherwise end the process.
	listen func() <-chan os.Signal
}

// interruptible runs what a command does. A signal cancels it, and it cleans up after itself.
func (s streams) interruptible(ctx context.Context, run func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- run(ctx) }()
	var err error
	select {
	case err = <-result:
	case <-s.listen():
		cancel()
		err = <-result
	}
	if err != nil {
		return &exitError{status: statusFailed, err: err}
	}
	return nil
}

// snapshotCommand is the tree of commands that work on snapshot files, without a running member. Their flags
// and their figures are those of etcdutl.
func snapshotCommand(s streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot COMMAND",
		Short: "Restore, describe and check snapshot files",
		Example: `  dolmen ctl snapshot save backup.db
  dolmen snapshot verify backup.db
  dolmen snapshot restore backup.db --data-dir new.etcd`,
		Long: `Works on snapshot files: those that "etcdctl snapshot save" has written, of a member of dolmen's or
etcd's, and copies of an etcd member's own file (member/snap/db). No member needs to run.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("a command is missing: restore, status or verify")
		},
	}
	cmd.AddCommand(restoreCommand(s), statusCommand(s), verifyCommand(s))
	return cmd
}

// restoreFlags are those of "snapshot restore".
type restoreFlags struct {
	name, cluster, token, peerURLs string
	dataDir, walDir, engine        string
	skipHash, compacted            bool
	bump, mmap                     uint64
}

func restoreCommand(s streams) *cobra.Command {
	var f restoreFlags
	def := config.Default()
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "Make the data directory of a member of a new cluster from a snapshot",
		Long: `Makes the data directory of a member of a new cluster that begins with the data of a snapshot. Keys, their
history, leases, users, roles and alarms are kept; the members are those of --initial-cluster. Each member of
the new cluster is restored from the same file, with the same --initial-cluster and its own --name, and then
started on its directory.`,
		Example: `  dolmen snapshot restore backup.db --data-dir default.etcd
  dolmen --data-dir default.etcd`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return f.run(cmd.Context(), s, args[0]) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.dataDir, "data-dir", "", "directory to make; empty or not there (default <name>.etcd)")
	flags.StringVar(&f.walDir, "wal-dir", "", "directory for the raft log; not there (default in --data-dir)")
	flags.StringVar(&f.cluster, "initial-cluster", def.InitialCluster, "members of the new cluster, as name=url,name=url")
	flags.StringVar(&f.token, "initial-cluster-token", def.InitialClusterToken, "token that keeps clusters apart")
	flags.StringVar(&f.peerURLs, "initial-advertise-peer-urls", def.AdvertisePeerURLs[0].String(), "peer URLs of this member, as in --initial-cluster")
	flags.StringVar(&f.name, "name", def.Name, "name of this member")
	flags.StringVar(&f.engine, "storage-engine", def.StorageEngine, "engine that the member is to run with: pebble, memory or rocksdb")
	flags.BoolVar(&f.skipHash, "skip-hash-check", false, "accept a file without checksum: a copy of an etcd member's own file")
	flags.Uint64Var(&f.bump, "bump-revision", 0, "move the revision on by so much, so that no client sees an older one than before; needs --mark-compacted")
	flags.BoolVar(&f.compacted, "mark-compacted", false, "have everything before the bumped revision compacted; needs --bump-revision")
	flags.Uint64Var(&f.mmap, "initial-memory-map-size", 0, "accepted for etcdutl's sake, without effect")
	for _, err := range []error{flags.MarkHidden("initial-memory-map-size"), cmd.MarkFlagDirname("data-dir"), cmd.MarkFlagDirname("wal-dir")} {
		if err != nil {
			panic(err) // a name is misspelled above
		}
	}
	return cmd
}

func (f *restoreFlags) run(ctx context.Context, s streams, file string) error {
	switch {
	case (f.bump > 0) != f.compacted:
		return errors.New("--bump-revision and --mark-compacted go together: give both or neither")
	case f.bump > math.MaxInt64:
		return fmt.Errorf("--bump-revision %d is larger than any revision can be", f.bump)
	}
	cfg, err := f.config()
	if err != nil {
		return err
	}
	return s.interruptible(ctx, func(ctx context.Context) error { return f.restore(ctx, s, cfg, file) })
}

func (f *restoreFlags) restore(ctx context.Context, s streams, cfg *config.Config, file string) error {
	bar := &progressBar{streams: s}
	start := time.Now()
	c, err := node.Restore(ctx, cfg, node.RestoreOptions{
		Snapshot: file, SkipHashCheck: f.skipHash, BumpRevision: int64(f.bump), Progress: bar.progress(),
	}, zap.NewNop())
	bar.done()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "Restored %s to %s in %v: revision %d, %d keys, %d leases, %d users.\n",
		file, cfg.DataDir, time.Since(start).Round(time.Millisecond), c.Revision, c.Keys, c.Leases, c.Users)
	return err
}

func (f *restoreFlags) config() (*config.Config, error) {
	cfg := config.Default()
	cfg.Name, cfg.InitialCluster, cfg.InitialClusterToken = f.name, f.cluster, f.token
	cfg.DataDir, cfg.WALDir, cfg.StorageEngine = f.dataDir, f.walDir, f.engine
	if cfg.DataDir == "" {
		cfg.DataDir = f.name + ".etcd"
	}
	if err := config.CheckEngine(f.engine); err != nil {
		return nil, err
	}
	urls, err := types.NewURLs(strings.Split(f.peerURLs, ","))
	if err != nil {
		return nil, fmt.Errorf("--initial-advertise-peer-urls: %w", err)
	}
	cfg.AdvertisePeerURLs = []url.URL(urls)
	return cfg, nil
}

// scan opens a file, reads it all and calls done with what it holds.
func scan(ctx context.Context, s streams, path string, check bool, done func(*interchange.File, *interchange.Contents) error) (err error) {
	now, cancel := context.WithCancel(ctx)
	cancel() // a file that a member has open is not waited for
	file, err := interchange.Open(now, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	bar := &progressBar{streams: s}
	defer bar.done()
	step := func(name string) func(int64) {
		if progress := bar.progress(); progress != nil {
			return func(n int64) { progress(name, n, file.Size()) }
		}
		return nil
	}
	if check {
		if err := file.CheckTrailer(ctx, step("checksum")); err != nil {
			return err
		}
	}
	c, err := file.Scan(ctx, step("records"), nil)
	if err != nil {
		return err
	}
	bar.done()
	return done(file, c)
}

func statusCommand(s streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "status FILE",
		Short: "Print hash, revision, number of keys and size of a snapshot",
		Long: `Prints a snapshot's hash, revision, number of keys, size and version, as etcdutl does. The file is read as a
whole and its structure checked, but not its checksum: see "verify" for that.`,
		Example: "  dolmen snapshot status backup.db --write-out table",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			write, known := statusFormats()[format]
			if !known {
				return fmt.Errorf("--write-out=%s is not a format; give fields, json, simple or table", format)
			}
			return s.interruptible(cmd.Context(), func(ctx context.Context) error {
				return scan(ctx, s, args[0], false, func(_ *interchange.File, c *interchange.Contents) error {
					return write(s.out, c)
				})
			})
		},
	}
	cmd.Flags().StringVarP(&format, "write-out", "w", "simple", "format: fields, json, simple or table")
	return cmd
}

// statusFormats are the forms in which etcdutl writes the status of a file.
func statusFormats() map[string]func(io.Writer, *interchange.Contents) error {
	cells := func(c *interchange.Contents) []string {
		return []string{fmt.Sprintf("%x", c.Hash), fmt.Sprint(c.Revision), fmt.Sprint(c.Keys), humanBytes(c.Size), c.Version}
	}
	return map[string]func(io.Writer, *interchange.Contents) error{
		"simple": func(w io.Writer, c *interchange.Contents) error {
			_, err := fmt.Fprintln(w, strings.Join(cells(c), ", "))
			return err
		},
		"fields": func(w io.Writer, c *interchange.Contents) error {
			_, err := fmt.Fprintf(w, "\"Hash\" : %d\n\"Revision\" : %d\n\"Keys\" : %d\n\"Size\" : %d\n\"Version\" : %s\n",
				c.Hash, c.Revision, c.Keys, c.Size, c.Version)
			return err
		},
		"json": func(w io.Writer, c *interchange.Contents) error {
			return json.NewEncoder(w).Encode(struct {
				Hash      uint32 `json:"hash"`
				Revision  int64  `json:"revision"`
				TotalKey  int    `json:"totalKey"`
				TotalSize int64  `json:"totalSize"`
				Version   string `json:"version"`
			}{c.Hash, c.Revision, c.Keys, c.Size, c.Version})
		},
		"table": func(w io.Writer, c *interchange.Contents) error {
			return writeTable(w, []string{"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"}, cells(c))
		},
	}
}

// writeTable writes a table of one row in a frame, its heads centred and its cells to the right.
func writeTable(w io.Writer, heads, cells []string) error {
	var rules, top, row []string
	for i, head := range heads {
		width := max(utf8.RuneCountInString(head), utf8.RuneCountInString(cells[i])) + 2
		left := (width - len(head)) / 2
		rules = append(rules, strings.Repeat("─", width))
		top = append(top, strings.Repeat(" ", left)+head+strings.Repeat(" ", width-left-len(head)))
		row = append(row, fmt.Sprintf("%*s ", width-1, cells[i]))
	}
	_, err := fmt.Fprintf(w, "┌%s┐\n│%s│\n├%s┤\n│%s│\n└%s┘\n", strings.Join(rules, "┬"), strings.Join(top, "│"),
		strings.Join(rules, "┼"), strings.Join(row, "│"), strings.Join(rules, "┴"))
	return err
}

// humanBytes writes a size in powers of 1000, with one decimal below ten.
func humanBytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	v, unit := float64(n), 0
	for v >= 1000 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	v = math.Floor(v*10+0.5) / 10
	if v < 10 && unit > 0 {
		return fmt.Sprintf("%.1f %s", v, units[unit])
	}
	return fmt.Sprintf("%.0f %s", v, units[unit])
}

func verifyCommand(s streams) *cobra.Command {
	var skipHash bool
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a snapshot: its checksum, its pages and every record",
		Long: `Checks a snapshot from end to end: its checksum, the references between its pages, that every bucket is
there, and the form of every record. Prints what it holds. The exit status is not zero if it is damaged, and
the message says where.`,
		Example: "  dolmen snapshot verify backup.db",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.interruptible(cmd.Context(), func(ctx context.Context) error {
				return scan(ctx, s, args[0], !skipHash, func(f *interchange.File, c *interchange.Contents) error {
					return writeContents(s.out, f, c, !skipHash)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&skipHash, "skip-hash-check", false, "do not check the checksum: a copy of an etcd member's own file has none")
	return cmd
}

func writeContents(w io.Writer, f *interchange.File, c *interchange.Contents, checked bool) error {
	checksum := "right"
	if !checked {
		checksum = "not checked"
	}
	version := c.Version
	if version == "" {
		version = "none, as before etcd 3.6"
	}
	_, err := fmt.Fprintf(w, `%s is sound.
checksum        %s
size            %d
version         %s
revision        %d
compacted       %d
keys            %d, with %d revisions
leases          %d
users           %d, with %d roles, authentication %s
members         %d, and %d removed ones
alarms          %d
raft index      %d, of term %d
`, f.Path(), checksum, c.Size, version, c.Revision, max(c.Scheduled, c.Finished), c.Keys, c.Revisions, c.Leases,
		c.Users, c.Roles, onOff(c.AuthEnabled), c.Members, c.Removed, c.Alarms, c.Index, c.Term)
	return err
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// progressBar shows on a terminal how far a command has come, and nothing elsewhere.
type progressBar struct {
	streams
	last  time.Time
	shown bool
}

const (
	// barInterval keeps the bar calm, barWidth is its length in characters.
	barInterval = 100 * time.Millisecond
	barWidth    = 30
)

// progress returns what is to be called, nil if nobody watches.
func (b *progressBar) progress() func(step string, done, total int64) {
	if !b.terminal {
		return nil
	}
	return func(step string, done, total int64) {
		if now := time.Now(); now.Sub(b.last) >= barInterval {
			b.last = now
			b.draw(step, done, total)
		}
	}
}

func (b *progressBar) draw(step string, done, total int64) {
	part := 1.0
	if total > 0 {
		part = min(1, float64(done)/float64(total))
	}
	full := int(part * barWidth)
	fmt.Fprintf(b.err, "\r%-10s [%s%s] %3.0f%% of %s  ", step, strings.Repeat("#", full), strings.Repeat(".", barWidth-full),
		part*100, humanBytes(total))
	b.shown = true
}

// done takes the bar away.
func (b *progressBar) done() {
	if b.shown {
		fmt.Fprintf(b.err, "\r%s\r", strings.Repeat(" ", barWidth+40))
		b.shown = false
	}
}
