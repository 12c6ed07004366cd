package wal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

var testMetadata = Metadata{NodeID: 0x1234, ClusterID: 0x5678}

// smallSegments makes segments of the given size until the test ends. The size is a variable of etcd's package, so
// tests that need it, or that create logs, are not parallel.
func smallSegments(t testing.TB, bytes int64) {
	old := wal.SegmentSizeBytes
	wal.SegmentSizeBytes = bytes
	t.Cleanup(func() { wal.SegmentSizeBytes = old })
}

func entries(term, from, to uint64) []*raftpb.Entry {
	var ents []*raftpb.Entry
	for i := from; i <= to; i++ {
		ents = append(ents, &raftpb.Entry{Term: &term, Index: new(i), Data: fmt.Appendf(nil, "entry %d of term %d", i, term)})
	}
	return ents
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

func create(t testing.TB, opts Options) (*Log, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := Create(zap.NewNop(), dir, testMetadata, opts)
	require.NoError(t, err)
	return l, dir
}

func open(t testing.TB, dir string, applied uint64, opts Options) (*Log, *Restored) {
	t.Helper()
	l, r, err := Open(zaptest.NewLogger(t), dir, applied, opts)
	require.NoError(t, err)
	return l, r
}

// indexes describes entries as "first-last@term".
func indexes(ents []*raftpb.Entry) string {
	var b strings.Builder
	for i := 0; i < len(ents); {
		j := i
		for j+1 < len(ents) && ents[j+1].GetTerm() == ents[i].GetTerm() {
			j++
		}
		fmt.Fprintf(&b, "%d-%d@%d ", ents[i].GetIndex(), ents[j].GetIndex(), ents[i].GetTerm())
		i = j + 1
	}
	return strings.TrimSpace(b.String())
}

func copyDir(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "wal")
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

func lastSegment(t testing.TB, dir string) string {
	t.Helper()
	all, err := segments(dir)
	require.NoError(t, err)
	return filepath.Join(dir, all[len(all)-1].name)
}

func TestWritesAreReadBack(t *testing.T) {
	smallSegments(t, 64<<10)
	l, dir := create(t, Options{})
	require.True(t, Exist(dir))
	_, err := Create(zap.NewNop(), dir, testMetadata, Options{})
	require.ErrorIs(t, err, ErrExists)
	_, _, err = Open(zap.NewNop(), dir, 0, Options{})
	require.ErrorIs(t, err, ErrLocked)

	require.NoError(t, l.Append(hardState(1, 7, 0), entries(1, 1, 10)))
	require.NoError(t, l.Append(nil, entries(1, 11, 20)))
	require.NoError(t, l.Append(hardState(2, 0, 12), entries(2, 15, 16)))
	require.NoError(t, l.Mark(12, 1, &raftpb.ConfState{Voters: []uint64{7}}))
	require.NoError(t, l.Append(hardState(2, 0, 13), nil))
	require.NoError(t, l.Close())

	for applied, want := range map[uint64]string{0: "1-14@1 15-16@2", 11: "1-14@1 15-16@2", 12: "13-14@1 15-16@2", 16: "13-14@1 15-16@2"} {
		l, r := open(t, dir, applied, Options{})
		require.Equal(t, want, indexes(r.Entries), "applied %d", applied)
		require.Equal(t, testMetadata, r.Metadata)
		require.Equal(t, []uint64{2, 0, 13}, []uint64{r.HardState.GetTerm(), r.HardState.GetVote(), r.HardState.GetCommit()})
		require.NoError(t, l.Close())
	}
}

func TestNewLogHasNoHardState(t *testing.T) {
	smallSegments(t, 64<<10)
	l, dir := create(t, Options{UnsafeNoFsync: true})
	require.NoError(t, l.Close())
	l, r := open(t, dir, 0, Options{})
	require.Nil(t, r.HardState)
	require.Empty(t, r.Entries)
	require.Equal(t, Mark{}, r.Mark)
	require.NoError(t, l.Close())
}

func TestCreateAfterCrashInCreate(t *testing.T) {
	smallSegments(t, 64<<10)
	dir := filepath.Join(t.TempDir(), "wal")
	require.NoError(t, os.MkdirAll(dir+".tmp", 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir+".tmp", "0000000000000000-0000000000000000.wal"), []byte("half"), 0o600))
	require.False(t, Exist(dir))
	l, err := Create(zap.NewNop(), dir, testMetadata, Options{})
	require.NoError(t, err)
	require.NoError(t, l.Append(hardState(1, 1, 0), entries(1, 1, 1)))
	require.NoError(t, l.Close())
	require.NoDirExists(t, dir+".tmp")
	l, r := open(t, dir, 0, Options{})
	require.Equal(t, "1-1@1", indexes(r.Entries))
	require.NoError(t, l.Close())
}

// TestMarkCountsWithoutItsCommit marks an index above the commit index that was last written, as after a restart
// whose commit index comes from the engine.
func TestMarkCountsWithoutItsCommit(t *testing.T) {
	smallSegments(t, 64<<10)
	l, dir := create(t, Options{})
	require.NoError(t, l.Append(hardState(3, 7, 0), entries(3, 1, 5)))
	require.NoError(t, l.Close())
	l, _ = open(t, dir, 5, Options{})
	require.NoError(t, l.Mark(5, 3, &raftpb.ConfState{Voters: []uint64{7}}))
	require.ErrorContains(t, l.Mark(6, 3, &raftpb.ConfState{Voters: []uint64{7}}), "its last entry is 5")
	require.NoError(t, l.Close())
	l, r := open(t, dir, 5, Options{})
	require.Equal(t, Mark{Index: 5, Term: 3}, r.Mark)
	require.Equal(t, []uint64{3, 7, 5}, []uint64{r.HardState.GetTerm(), r.HardState.GetVote(), r.HardState.GetCommit()})
	require.NoError(t, l.Close())
}

func TestReleaseDeletesWhatNoRestartNeeds(t *testing.T) {
	smallSegments(t, 4<<10)
	for _, keep := range []uint{0, 1, 4} {
		t.Run(fmt.Sprint("max ", keep), func(t *testing.T) {
			l, dir := create(t, Options{MaxWALs: keep})
			require.NoError(t, l.Append(hardState(1, 7, 0), nil))
			for i := uint64(1); i <= 1000; i += 10 {
				require.NoError(t, l.Append(hardState(1, 7, i-1), entries(1, i, i+9)))
			}
			before, err := segments(dir)
			require.NoError(t, err)
			require.Greater(t, len(before), 10)
			require.NoError(t, l.Mark(990, 1, &raftpb.ConfState{Voters: []uint64{7}}))
			require.NoError(t, l.Release(990))
			require.NoError(t, l.Close())
			after, err := segments(dir)
			require.NoError(t, err)
			needed := len(before) - releasable(before, 990)
			switch keep {
			case 0:
				require.Equal(t, before, after)
			default:
				require.Len(t, after, max(int(keep), needed))
			}
			l, r := open(t, dir, 995, Options{})
			require.Equal(t, "991-1000@1", indexes(r.Entries))
			require.Equal(t, uint64(1), r.HardState.GetTerm())
			require.NoError(t, l.Close())
			if keep > 0 {
				_, _, err = Open(zap.NewNop(), dir, 989, Options{})
				require.ErrorIs(t, err, ErrNoMark)
			}
		})
	}
}

// TestHardStateSurvivesReleaseAfterRestart fills segments after a restart without ever writing a hard state.
func TestHardStateSurvivesReleaseAfterRestart(t *testing.T) {
	smallSegments(t, 4<<10)
	l, dir := create(t, Options{})
	require.NoError(t, l.Append(hardState(4, 7, 1), entries(4, 1, 1)))
	require.NoError(t, l.Close())
	l, _ = open(t, dir, 1, Options{MaxWALs: 1})
	for i := uint64(2); i <= 400; i++ {
		require.NoError(t, l.Append(nil, entries(4, i, i)))
	}
	require.NoError(t, l.Mark(400, 4, &raftpb.ConfState{Voters: []uint64{7}}))
	require.NoError(t, l.Release(400))
	require.NoError(t, l.Close())
	l, r := open(t, dir, 400, Options{})
	require.Equal(t, []uint64{4, 7}, []uint64{r.HardState.GetTerm(), r.HardState.GetVote()})
	require.NoError(t, l.Close())
}

// torn returns a log of 30 synced entries in one segment and the offset behind each Append.
func torn(t testing.TB) (dir string, ends []int64) {
	l, dir := create(t, Options{})
	for i := uint64(1); i <= 30; i++ {
		ents := entries(1, i, i)
		ents[0].Data = append(ents[0].Data, strings.Repeat("x", int(i*7))...)
		require.NoError(t, l.Append(hardState(1, 7, i-1), ents))
		f, err := os.Open(lastSegment(t, dir))
		require.NoError(t, err)
		end, _, err := readableEnd(f, 0)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		ends = append(ends, end)
	}
	crashed := copyDir(t, dir)
	require.NoError(t, l.Close())
	return crashed, ends
}

// TestTornEnd cuts the log short at every byte of its last records. What was synced before the cut must be there.
func TestTornEnd(t *testing.T) {
	smallSegments(t, 16<<10)
	image, ends := torn(t)
	path := lastSegment(t, image)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "wal")
	for cut := ends[27]; cut <= ends[29]; cut++ {
		if cut%sectorSize != 0 && cut%3 != 0 && cut < ends[29]-40 {
			continue // each costs two fsyncs and two opens under the race detector
		}
		for _, zeros := range []bool{false, true} {
			if zeros && cut%sectorSize != 0 {
				continue // a disk writes whole sectors
			}
			require.NoError(t, os.RemoveAll(dir))
			require.NoError(t, os.MkdirAll(dir, 0o700))
			data := append([]byte(nil), whole[:cut]...)
			if zeros {
				data = append(data, make([]byte, len(whole)-int(cut))...)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600))
			l, r, err := Open(zap.NewNop(), dir, 0, Options{})
			require.NoError(t, err, "cut at %d", cut)
			want := 0
			for want < len(ends) && ends[want] <= cut {
				want++
			}
			require.GreaterOrEqual(t, len(r.Entries), want, "cut at %d", cut)
			// It goes on from there, and what is written then is read.
			next := uint64(len(r.Entries)) + 1
			require.NoError(t, l.Append(hardState(2, 7, next), entries(2, next, next)))
			require.NoError(t, l.Close())
			l, r, err = Open(zap.NewNop(), dir, 0, Options{})
			require.NoError(t, err, "again after a cut at %d", cut)
			require.Equal(t, next, uint64(len(r.Entries)))
			require.NoError(t, l.Close())
		}
	}
}

// TestDamageIsRefused flips each bit of some records. Nothing synced may be lost silently.
func TestDamageIsRefused(t *testing.T) {
	smallSegments(t, 16<<10)
	image, ends := torn(t)
	path := lastSegment(t, image)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "wal")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	name := filepath.Join(dir, filepath.Base(path))
	for offset := ends[9]; offset < ends[11]; offset++ {
		for bit := range 8 {
			data := append([]byte(nil), whole...)
			data[offset] ^= 1 << bit
			require.NoError(t, os.WriteFile(name, data, 0o600))
			l, r, err := Open(zap.NewNop(), dir, 0, Options{})
			if err == nil { // padding, or a bit that says nothing
				require.Equal(t, "1-30@1", indexes(r.Entries), "bit %d of byte %d", bit, offset)
				require.NoError(t, l.Close())
				continue
			}
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, dir)
			now, err := os.ReadFile(name)
			require.NoError(t, err)
			require.Equal(t, data, now, "a refused log must stay as it is")
		}
	}
}

func TestMissingSegmentIsRefused(t *testing.T) {
	smallSegments(t, 4<<10)
	l, dir := create(t, Options{})
	for i := uint64(1); i <= 400; i++ {
		require.NoError(t, l.Append(hardState(1, 7, i-1), entries(1, i, i)))
	}
	require.NoError(t, l.Close())
	all, err := segments(dir)
	require.NoError(t, err)
	require.Greater(t, len(all), 3)
	middle := filepath.Join(dir, all[2].name)

	data, err := os.ReadFile(middle)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(middle, data[:len(data)/2], 0o600))
	_, _, err = Open(zap.NewNop(), dir, 0, Options{})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, middle, "it names the file")

	data[strings.Index(string(data), "entry ")] ^= 1
	require.NoError(t, os.WriteFile(middle, data, 0o600))
	_, _, err = Open(zap.NewNop(), dir, 0, Options{})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, middle)

	require.NoError(t, os.Remove(middle))
	_, _, err = Open(zap.NewNop(), dir, 0, Options{})
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "segment 0000000000000002 is missing between")

	_, _, err = Open(zap.NewNop(), t.TempDir(), 0, Options{})
	require.ErrorIs(t, err, ErrCorrupt)
	_, _, err = Open(zap.NewNop(), filepath.Join(dir, "nowhere"), 0, Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestForeignMetadataIsRefused(t *testing.T) {
	smallSegments(t, 64<<10)
	for want, data := range map[string][]byte{"have no metadata": nil, "cannot be decoded": []byte("not a message")} {
		dir := filepath.Join(t.TempDir(), "wal")
		w, err := wal.Create(zap.NewNop(), dir, data)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		_, _, err = Open(zap.NewNop(), dir, 0, Options{})
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, want)
	}
}

// TestCreateLeavesWhatIsNotOurs creates a log in directories of somebody else.
func TestCreateLeavesWhatIsNotOurs(t *testing.T) {
	smallSegments(t, 16<<10)
	for _, name := range []string{"wal/mine/precious", "wal/notes", "wal.tmp/notes", "wal/dir.tmp/notes"} {
		parent := t.TempDir()
		path := filepath.Join(parent, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte("x"), 0o600))
		_, err := Create(zap.NewNop(), filepath.Join(parent, "wal"), testMetadata, Options{})
		require.ErrorIs(t, err, ErrOccupied)
		require.ErrorContains(t, err, filepath.Join(parent, strings.Split(name, "/")[0])+" holds "+strings.Split(name, "/")[1])
		require.FileExists(t, path)
	}
	file := filepath.Join(t.TempDir(), "wal")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	_, err := Create(zap.NewNop(), file, testMetadata, Options{})
	require.Error(t, err)
	require.FileExists(t, file)

	dir := filepath.Join(t.TempDir(), "wal")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "0.tmp"), []byte("x"), 0o600))
	l, err := Create(zap.NewNop(), dir, testMetadata, Options{})
	require.NoError(t, err)
	require.NoError(t, l.Close())
}

// TestNothingIsWrittenAfterAFailure takes the directory away while a segment is begun, and gives it back. What is
// written then would be in a segment that has no name.
func TestNothingIsWrittenAfterAFailure(t *testing.T) {
	smallSegments(t, 4<<10)
	l, dir := create(t, Options{})
	require.NoError(t, l.Append(hardState(1, 7, 0), entries(1, 1, 1)))
	require.NoError(t, os.Rename(dir, dir+".away"))
	next, err := uint64(2), error(nil)
	for ; err == nil; next++ {
		err = l.Append(nil, entries(1, next, next))
	}
	require.NoError(t, os.Rename(dir+".away", dir))
	later := l.Append(nil, entries(1, next, next))
	require.ErrorContains(t, later, "after a failed write")
	require.ErrorIs(t, later, err)
	require.ErrorIs(t, l.Mark(1, 1, &raftpb.ConfState{Voters: []uint64{7}}), err)
	require.NoError(t, l.Close())

	l, r := open(t, dir, 0, Options{})
	require.GreaterOrEqual(t, uint64(len(r.Entries)), next-2, "all that was acknowledged")
	require.NoError(t, l.Close())
}

// TestFailuresAreReported uses a log that is closed.
func TestFailuresAreReported(t *testing.T) {
	smallSegments(t, 64<<10)
	l, dir := create(t, Options{})
	require.NoError(t, l.Append(hardState(1, 7, 0), entries(1, 1, 1)))
	require.NoError(t, l.Close())
	err := l.Append(nil, entries(1, 2, 2))
	require.ErrorContains(t, err, "append to raft log "+dir)
	require.ErrorContains(t, l.Mark(1, 1, &raftpb.ConfState{}), "raft log "+dir)
	require.Error(t, l.Close())

	_, err = Create(zap.NewNop(), filepath.Join(dir, "0000000000000000-0000000000000000.wal", "below a file"), testMetadata, Options{})
	require.ErrorContains(t, err, "create raft log")
}

func FuzzOpenMangled(f *testing.F) {
	smallSegments(f, 8<<10)
	image, ends := torn(f)
	path := lastSegment(f, image)
	whole, err := os.ReadFile(path)
	require.NoError(f, err)
	whole = whole[:ends[len(ends)-1]]
	f.Add(uint16(0), []byte{}, uint16(0))
	f.Add(uint16(ends[3]), []byte{0xff, 0xff}, uint16(0))
	f.Add(uint16(ends[5]+8), make([]byte, 600), uint16(100))
	f.Add(uint16(9), []byte("garbage"), uint16(7000))
	f.Fuzz(func(t *testing.T, at uint16, bytes []byte, cut uint16) {
		data := append([]byte(nil), whole...)
		copy(data[int(at)%len(data):], bytes)
		data = data[:len(data)-int(cut)%len(data)]
		dir := filepath.Join(t.TempDir(), "wal")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), data, 0o600))
		l, r, err := Open(zap.NewNop(), dir, 0, Options{UnsafeNoFsync: true})
		if err != nil {
			return
		}
		for i, e := range r.Entries {
			require.Equal(t, uint64(i+1), e.GetIndex())
		}
		next := uint64(len(r.Entries)) + 1
		require.NoError(t, l.Append(hardState(9, 9, 0), entries(9, next, next)))
		require.NoError(t, l.Close())
	})
}

// TestCheck: it says what Open would say, and changes nothing.
func TestCheck(t *testing.T) {
	smallSegments(t, 4<<10)
	l, dir := create(t, Options{})
	require.NoError(t, l.Append(hardState(1, 7, 0), nil))
	for i := uint64(1); i <= 300; i++ {
		require.NoError(t, l.Append(nil, entries(1, i, i)))
	}
	require.ErrorIs(t, Check(zap.NewNop(), dir, 50), ErrLocked)
	require.NoError(t, l.Mark(60, 1, &raftpb.ConfState{Voters: []uint64{7}}))
	require.NoError(t, l.Close())
	for _, applied := range []uint64{0, 59, 60, 300} {
		require.NoError(t, Check(zap.NewNop(), dir, applied), applied)
	}
	err := Check(zap.NewNop(), dir, 301)
	require.ErrorIs(t, err, ErrNoMark)
	require.ErrorContains(t, err, dir)

	torn := copyDir(t, dir)
	b, err := os.ReadFile(lastSegment(t, torn))
	require.NoError(t, err)
	f, err := os.OpenFile(lastSegment(t, torn), os.O_RDWR, 0)
	require.NoError(t, err)
	end, _, err := readableEnd(f, 0)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(end-8))
	require.NoError(t, f.Close())
	require.NoError(t, Check(zap.NewNop(), torn, 60))
	require.NoFileExists(t, lastSegment(t, torn)+".broken")

	b[end/2] ^= 1
	require.NoError(t, os.WriteFile(lastSegment(t, dir), b, 0o600))
	require.ErrorIs(t, Check(zap.NewNop(), dir, 60), ErrCorrupt)
	all, err := segments(dir)
	require.NoError(t, err)
	require.NoError(t, os.Remove(filepath.Join(dir, all[1].name)))
	require.ErrorIs(t, Check(zap.NewNop(), dir, 60), ErrCorrupt)
	require.ErrorIs(t, Check(zap.NewNop(), t.TempDir(), 0), ErrCorrupt)
}

// A snapshot that was received stands for all before it.
func TestInstall(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := Create(zap.NewNop(), dir, Metadata{NodeID: 1, ClusterID: 2}, Options{})
	require.NoError(t, err)
	cs := &raftpb.ConfState{Voters: []uint64{1, 2}}
	require.NoError(t, l.Append(&raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(1)), Commit: new(uint64(3))}, entriesOf(1, 1, 3)))
	require.NoError(t, l.Install(50, 2, cs))
	marks, err := Marks(zap.NewNop(), dir)
	require.NoError(t, err)
	require.Equal(t, []Mark{{}, {Index: 50, Term: 2}}, marks, "it is believed without another write")
	require.NoError(t, l.Append(&raftpb.HardState{Term: new(uint64(2)), Vote: new(uint64(0)), Commit: new(uint64(50))}, entriesOf(2, 51, 52)))
	require.NoError(t, l.Mark(50, 2, cs))
	require.NoError(t, l.Release(50))
	require.NoError(t, l.Close())
	marks, err = Marks(zap.NewNop(), dir)
	require.NoError(t, err)
	require.Contains(t, marks, Mark{Index: 50, Term: 2})

	l, r, err := Open(zap.NewNop(), dir, 51, Options{})
	require.NoError(t, err)
	require.Equal(t, Mark{Index: 50, Term: 2}, r.Mark)
	require.Len(t, r.Entries, 2)
	require.Equal(t, uint64(50), r.HardState.GetCommit())
	require.NoError(t, l.Close())
	_, err = Marks(zap.NewNop(), filepath.Join(dir, "none"))
	require.Error(t, err)
}

// TestInstallVoidsWhatWasBefore installs a snapshot into a log that goes on beyond it, with entries of another history.
func TestInstallVoidsWhatWasBefore(t *testing.T) {
	l, dir := create(t, Options{})
	cs := &raftpb.ConfState{Voters: []uint64{1, 2}}
	require.NoError(t, l.Append(hardState(1, 1, 3), entries(1, 1, 60)))
	require.NoError(t, l.Install(50, 2, cs))
	require.NoError(t, l.Close())
	l, r := open(t, dir, 50, Options{})
	require.Equal(t, Mark{Index: 50, Term: 2}, r.Mark)
	require.Empty(t, r.Entries)
	require.Equal(t, uint64(50), r.HardState.GetCommit())
	require.Equal(t, uint64(50), l.last)

	require.NoError(t, l.Append(hardState(2, 1, 50), entries(2, 51, 54)))
	require.NoError(t, l.Close())
	l, r = open(t, dir, 50, Options{})
	require.Equal(t, "51-54@2", indexes(r.Entries), "what follows on it is good")

	// As is what a mark has behind it that was there before.
	require.NoError(t, l.Append(nil, entries(2, 55, 56)))
	require.NoError(t, l.Mark(53, 2, cs))
	require.NoError(t, l.Close())
	l, r = open(t, dir, 55, Options{})
	require.Equal(t, Mark{Index: 53, Term: 2}, r.Mark)
	require.Equal(t, "54-56@2", indexes(r.Entries))
	require.NoError(t, l.Close())
}

func entriesOf(term, from, to uint64) (ents []*raftpb.Entry) {
	for i := from; i <= to; i++ {
		ents = append(ents, &raftpb.Entry{Term: &term, Index: new(i), Data: []byte("x")})
	}
	return ents
}
