package inspect

import (
	"fmt"
	"io"
	"strings"
)

// Report is what Check found in a data directory. What could not be read is nil.
type Report struct {
	DataDir string `json:"data_dir"`
	// Kind is "dolmen" or "etcd": whose directory it is.
	Kind string `json:"kind"`
	// Format is that of the directory, 0 for etcd's.
	Format int     `json:"format,omitempty"`
	Engine *Engine `json:"engine,omitempty"`
	// Database is there instead of an engine if the directory is etcd's.
	Database *Database `json:"database,omitempty"`
	Log      *Log      `json:"log,omitempty"`
	Cluster  Cluster   `json:"cluster"`
	Keys     *Keys     `json:"keys,omitempty"`
	Leases   *Leases   `json:"leases,omitempty"`
	Alarms   []Alarm   `json:"alarms,omitempty"`
	Auth     *Auth     `json:"auth,omitempty"`
	// Notes are worth knowing and no damage.
	Notes []string `json:"notes,omitempty"`
	// Findings are damage. Sound says that there is none.
	Findings []Finding `json:"findings"`
	Sound    bool      `json:"sound"`
}

// Finding is one thing that is damaged.
type Finding struct {
	Where string `json:"where"`
	What  string `json:"what"`
	Do    string `json:"do"`
}

// Engine is the store of a member as it lies on disk.
type Engine struct {
	Name        string `json:"name"`
	Bytes       int64  `json:"bytes"`
	Applied     uint64 `json:"applied_index"`
	AppliedTerm uint64 `json:"applied_term"`
}

// Database is what etcd keeps its data in. Version is that of its format, empty before etcd 3.6.
type Database struct {
	Bytes       int64  `json:"bytes"`
	Version     string `json:"version,omitempty"`
	Applied     uint64 `json:"applied_index"`
	AppliedTerm uint64 `json:"applied_term"`
}

// Log is a raft log.
type Log struct {
	Dir      string `json:"dir"`
	Segments int    `json:"segments"`
	Bytes    int64  `json:"bytes"`
	Entries  int    `json:"entries"`
	First    uint64 `json:"first_index"`
	Last     uint64 `json:"last_index"`
	Term     uint64 `json:"term"`
	Commit   uint64 `json:"commit"`
	// ReadFrom is the index of the snapshot record from which a start reads.
	ReadFrom uint64 `json:"read_from"`
}

// Cluster is who the member is, by its log, and whom its store knows. IDs are hexadecimal.
type Cluster struct {
	Member  string   `json:"member_id,omitempty"`
	ID      string   `json:"cluster_id,omitempty"`
	Version string   `json:"version,omitempty"`
	Members []Member `json:"members,omitempty"`
	Removed int      `json:"removed_members"`
}

// Member is a member of the cluster.
type Member struct {
	ID       string   `json:"id"`
	Name     string   `json:"name,omitempty"`
	PeerURLs []string `json:"peer_urls"`
	Learner  bool     `json:"learner,omitempty"`
}

// Keys is the key space. A compaction revision is 0 if there was none.
type Keys struct {
	Revision  int64 `json:"revision"`
	Keys      int64 `json:"keys"`
	Revisions int64 `json:"stored_revisions"`
	Bytes     int64 `json:"bytes"`
	Compacted int64 `json:"compacted"`
	// Finished is the compaction up to which everything has been removed.
	Finished int64 `json:"finished_compaction"`
}

// Leases are the granted leases and the keys attached to them.
type Leases struct {
	Leases int `json:"leases"`
	Keys   int `json:"attached_keys"`
}

// Alarm is a raised alarm.
type Alarm struct {
	Member string `json:"member_id"`
	Type   string `json:"type"`
}

// Auth is whether requests are checked, and against how much.
type Auth struct {
	Enabled  bool   `json:"enabled"`
	Revision uint64 `json:"revision"`
	Users    int    `json:"users"`
	Roles    int    `json:"roles"`
}

// WriteText renders the report for people.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-15s "+format+"\n", append([]any{name}, args...)...)
	}
	if r.Kind == "etcd" {
		line("data directory", "%s, written by etcd", r.DataDir)
	} else {
		line("data directory", "%s, written by dolmen (format %d)", r.DataDir, r.Format)
	}
	r.textCluster(line)
	if e := r.Engine; e != nil {
		line("engine", "%s, %s; applied index %d of term %d", e.Name, bytesText(e.Bytes), e.Applied, e.AppliedTerm)
	}
	if d := r.Database; d != nil {
		line("database", "etcd's, %s; applied index %d of term %d", bytesText(d.Bytes), d.Applied, d.AppliedTerm)
	}
	if l := r.Log; l != nil {
		line("raft log", "%s, %s", l.Dir, plural(l.Segments, "segment")+" of "+bytesText(l.Bytes))
		line("", "%s, %d to %d; term %d, committed to %d; a start reads from %d",
			plural(l.Entries, "entry"), l.First, l.Last, l.Term, l.Commit, l.ReadFrom)
	}
	for _, note := range r.Notes {
		line("note", "%s", note)
	}
	r.textContent(line)
	if len(r.Findings) == 0 {
		b.WriteString("\nsound\n")
	} else {
		fmt.Fprintf(&b, "\nDAMAGED: %s\n", plural(len(r.Findings), "finding"))
	}
	for i, f := range r.Findings {
		fmt.Fprintf(&b, "%d. %s: %s\n   %s\n", i+1, f.Where, f.What, f.Do)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) textCluster(line func(name, format string, args ...any)) {
	c := r.Cluster
	if c.ID != "" {
		line("member", "%s of cluster %s", c.Member, c.ID)
	}
	if c.Version != "" {
		line("version", "%s", c.Version)
	}
	for i, m := range c.Members {
		name := "members"
		if i > 0 {
			name = ""
		}
		learner := ""
		if m.Learner {
			learner = ", a learner"
		}
		line(name, "%s %q at %s%s", m.ID, m.Name, strings.Join(m.PeerURLs, ","), learner)
	}
	if c.Removed > 0 {
		line("", "removed before: %s", plural(c.Removed, "member"))
	}
}

func (r *Report) textContent(line func(name, format string, args ...any)) {
	if k := r.Keys; k != nil {
		line("keys", "%s at revision %d; %s stored, %s", plural(int(k.Keys), "key"), k.Revision,
			plural(int(k.Revisions), "revision"), bytesText(k.Bytes))
		switch {
		case k.Compacted == 0:
			line("compaction", "none")
		case k.Finished < k.Compacted:
			line("compaction", "to revision %d, not finished", k.Compacted)
		default:
			line("compaction", "to revision %d", k.Compacted)
		}
	}
	if l := r.Leases; l != nil {
		line("leases", "%s, %s attached", plural(l.Leases, "lease"), plural(l.Keys, "key"))
	}
	for _, a := range r.Alarms {
		line("alarm", "%s of member %s", a.Type, a.Member)
	}
	if a := r.Auth; a != nil {
		state := "off"
		if a.Enabled {
			state = "on"
		}
		line("authentication", "%s; %s, %s, revision %d", state, plural(a.Users, "user"), plural(a.Roles, "role"), a.Revision)
	}
}

// plural is a number with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, y := strings.CutSuffix(noun, "y"); y && noun != "key" {
		return fmt.Sprintf("%d %sies", n, stem)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// bytesText is a size with at most three digits before its unit.
func bytesText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	size, unit := float64(n), 0
	for size >= 1000 && unit < len(units)-1 {
		size, unit = size/1000, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", size, units[unit])
}
