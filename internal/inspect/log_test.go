package inspect

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/dolmen-io/dolmen/internal/wal"
)

func metadata(node, cluster uint64) wal.Record {
	return wal.Record{Path: "a.wal", Metadata: &wal.Metadata{NodeID: node, ClusterID: cluster}}
}

func mark(index, term uint64) wal.Record {
	return wal.Record{Path: "a.wal", Mark: &wal.Mark{Index: index, Term: term}}
}

func hardState(term, commit uint64) wal.Record {
	return wal.Record{Path: "a.wal", HardState: &raftpb.HardState{Term: &term, Vote: new(uint64), Commit: &commit}}
}

func entry(index, term uint64) wal.Record {
	return wal.Record{Path: "a.wal", Offset: int64(index * 100), Entry: &raftpb.Entry{Index: &index, Term: &term}}
}

// TestLogAgainstEngine are the rules by which a log fits an engine.
func TestLogAgainstEngine(t *testing.T) {
	unreadable := func(index uint64) wal.Record {
		r := entry(index, 1)
		r.Entry.Data = []byte{0xff}
		return r
	}
	sound := []wal.Record{metadata(1, 2), mark(0, 0), entry(1, 1), entry(2, 1), hardState(1, 2)}
	for _, tt := range []struct {
		name          string
		applied, term uint64
		alone         bool
		records       []wal.Record
		problems      []string
		readFrom      uint64
	}{
		{"sound", 2, 1, false, sound, nil, 0},
		{"behind the log", 1, 1, false, sound, nil, 0},
		{"nothing applied, torn in its first write", 0, 0, false, []wal.Record{metadata(1, 2), mark(0, 0), entry(1, 1)}, nil, 0},
		{"entries replaced by a new leader's", 3, 2, false,
			[]wal.Record{metadata(1, 2), mark(0, 0), entry(1, 1), entry(2, 1), entry(3, 1), entry(2, 2), entry(3, 2), hardState(2, 3)}, nil, 0},
		{"cut off below a snapshot record", 7, 1, false,
			[]wal.Record{metadata(1, 2), hardState(1, 7), entry(5, 1), entry(6, 1), mark(6, 1), entry(7, 1), mark(9, 1)}, nil, 6},
		{"without an engine, the newest committed", 0, 0, true,
			[]wal.Record{metadata(1, 2), hardState(1, 7), entry(6, 1), entry(7, 1), mark(6, 1), mark(9, 1)}, nil, 6},
		{"nothing behind the snapshot record", 6, 1, false, []wal.Record{metadata(1, 2), hardState(1, 6), mark(6, 1)}, nil, 6},

		{"nobody's", 0, 0, false, []wal.Record{mark(0, 0), entry(1, 1), hardState(1, 1)}, []string{"it does not say whose it is: its segments have no metadata"}, 0},
		{"of two members", 2, 1, false, append(append([]wal.Record{}, sound...), metadata(9, 2)),
			[]string{"a.wal belongs to member 9 of cluster 2, the segments before to 1 of 2"}, 0},
		{"no snapshot record", 2, 1, false, []wal.Record{metadata(1, 2), entry(1, 1), hardState(1, 1)}, []string{"it has no snapshot record to read from"}, 0},
		{"engine older than the log", 3, 1, false, []wal.Record{metadata(1, 2), hardState(1, 8), mark(7, 1), entry(8, 1)},
			[]string{"it begins at index 7 but the engine has applied only up to 3: the engine is older than the log"}, 0},
		{"state lost", 1, 1, false, []wal.Record{metadata(1, 2), mark(0, 0), entry(1, 1)},
			[]string{"it has no state although the engine has applied index 1: it belongs to another member or was lost"}, 0},
		{"gap", 4, 1, false, []wal.Record{metadata(1, 2), mark(0, 0), entry(1, 1), entry(4, 1), hardState(1, 4)},
			[]string{"entries 2 to 3 are missing before entry 4 of term 1 at offset 400 of a.wal"}, 0},
		{"gap behind the snapshot record", 4, 1, false, []wal.Record{metadata(1, 2), mark(1, 1), entry(4, 1), hardState(1, 4)},
			[]string{"entries 2 to 3, which a start reads first, are missing"}, 1},
		{"term goes back", 2, 1, false, []wal.Record{metadata(1, 2), mark(0, 0), entry(1, 2), entry(2, 1), hardState(2, 2)},
			[]string{"entry 2 of term 1 at offset 200 of a.wal follows on one of term 2: terms never go back"}, 0},
		{"end lost, by the engine", 5, 1, false, sound, []string{"it ends at index 2 but the engine has applied up to 5: it has lost its end"}, 0},
		{"end lost, by the state", 1, 1, false, append(append([]wal.Record{}, sound...), hardState(1, 5)),
			[]string{"it ends at index 2 but says that it is committed up to 5: it has lost its end"}, 0},
		{"another history", 2, 3, false, sound,
			[]string{"entry 2 is of term 1, the engine has applied one of term 3: they belong to different histories"}, 0},
		{"requests that cannot be read", 3, 1, false,
			[]wal.Record{metadata(1, 2), mark(0, 0), unreadable(1), unreadable(2), unreadable(3), hardState(1, 3)},
			[]string{"entry 1 of term 1 at offset 100 of a.wal asks for nothing that can be read: ", "so do 2 more entries"}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &logCheck{applied: tt.applied, term: tt.term, store: "engine", alone: tt.alone}
			for _, r := range tt.records {
				require.NoError(t, c.record(r))
			}
			c.finish()
			require.Len(t, c.problems, len(tt.problems), "%v", c.problems)
			for i, want := range tt.problems {
				require.Contains(t, c.problems[i], want)
			}
			require.Equal(t, tt.readFrom, c.log.ReadFrom)
		})
	}
}

func TestReportIsBounded(t *testing.T) {
	c := &logCheck{}
	require.NoError(t, c.record(metadata(1, 2)))
	for i := range uint64(10 * maxProblems) {
		require.NoError(t, c.record(entry(1+i*2, 1)))
	}
	c.finish()
	require.Len(t, c.problems, maxProblems)
}

func TestTexts(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 64_000_000: "64.0 MB", 5e15: "5000.0 TB"} {
		require.Equal(t, want, bytesText(n))
	}
	require.Equal(t, "1 key", plural(1, "key"))
	require.Equal(t, "2 keys", plural(2, "key"))
	require.Equal(t, "0 entries", plural(0, "entry"))
}
