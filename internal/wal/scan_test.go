package wal

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// scanned runs a scan and lists the records as it names them.
func scanned(dir string) (records []string, torn *Tear, err error) {
	torn, err = Scan(dir, func(r Record) error {
		records = append(records, r.String())
		return nil
	})
	return records, torn, err
}

func TestScanTellsEveryRecord(t *testing.T) {
	smallSegments(t, 64<<10)
	l, dir := create(t, Options{})
	require.NoError(t, l.Append(hardState(1, 7, 0), entries(1, 1, 2)))
	require.NoError(t, l.Append(hardState(1, 7, 2), nil))
	require.NoError(t, l.Mark(2, 1, &raftpb.ConfState{Voters: []uint64{7}}))

	// Also while the log is open.
	records, torn, err := scanned(dir)
	require.NoError(t, err)
	require.Nil(t, torn)
	file := "0000000000000000-0000000000000000.wal"
	for i, want := range []string{
		"crc at offset 0", "metadata at offset 16", "snapshot record of index 0 at offset 48", "entry 1 of term 1 at offset 72",
		"entry 2 of term 1", "state with commit index 0", "state with commit index 2", "snapshot record of index 2",
	} {
		require.True(t, strings.HasPrefix(records[i], want), records[i])
		require.True(t, strings.HasSuffix(records[i], " of "+file), records[i])
	}
	require.Len(t, records, 8)
	require.NoError(t, l.Close())

	stop := errors.New("enough")
	_, err = Scan(dir, func(Record) error { return stop })
	require.ErrorIs(t, err, stop)
	files, err := Files(dir)
	require.NoError(t, err)
	require.Equal(t, []File{{Path: filepath.Join(dir, file), Bytes: 64 << 10}}, files)
}

// TestScanFindsWhatOpenRefuses flips each byte of a log, one at a time: Scan calls it damaged if and only if Open
// refuses it, and writes nothing.
func TestScanFindsWhatOpenRefuses(t *testing.T) {
	smallSegments(t, 4<<10)
	l, sound := create(t, Options{})
	require.NoError(t, l.Append(hardState(1, 7, 2), entries(1, 1, 3)))
	require.NoError(t, l.Append(hardState(2, 7, 3), entries(2, 4, 5)))
	require.NoError(t, l.Close())
	path := lastSegment(t, sound)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	used := len(bytes.TrimRight(content, "\x00"))

	refused := 0
	for at := range used {
		mangled := bytes.Clone(content)
		mangled[at] ^= 0x10
		dir := copyDir(t, sound)
		file := filepath.Join(dir, filepath.Base(path))
		require.NoError(t, os.WriteFile(file, mangled, 0o600))
		_, torn, err := scanned(dir)
		after, rerr := os.ReadFile(file)
		require.NoError(t, rerr)
		require.Equal(t, mangled, after)
		var damage *Damage
		if err != nil {
			require.ErrorAs(t, err, &damage, "byte %d", at)
			require.ErrorIs(t, err, ErrCorrupt)
			require.LessOrEqual(t, damage.Offset, int64(at)+16) // behind it, if it is the checksum to start from
			refused++
		}
		log, _, openErr := Open(zap.NewNop(), dir, 0, Options{})
		require.Equal(t, openErr != nil, err != nil, "byte %d: Open %v, Scan %v, torn %v", at, openErr, err, torn)
		if openErr == nil {
			require.NoError(t, log.Close())
		}
	}
	require.Greater(t, refused, used/2)
}

func TestScanTornEnd(t *testing.T) {
	smallSegments(t, 64<<10)
	dir, ends := torn(t)
	path := lastSegment(t, dir)
	require.NoError(t, os.Truncate(path, ends[len(ends)-1]-3))
	records, tear, err := scanned(dir)
	require.NoError(t, err)
	require.Equal(t, path, tear.Path)
	require.Greater(t, tear.Offset, ends[len(ends)-2], "behind the entry, before the state")
	require.Contains(t, records[len(records)-1], "entry 30 of term 1")
}

func TestScanDamage(t *testing.T) {
	smallSegments(t, 2<<10)
	l, sound := create(t, Options{})
	for i := range uint64(60) {
		require.NoError(t, l.Append(hardState(1, 7, i), entries(1, i+1, i+1)))
	}
	require.NoError(t, l.Close())
	all, err := segments(sound)
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(all), 3)
	for name, test := range map[string]struct {
		damage func(dir string) error
		want   string
	}{
		"a segment missing": {func(dir string) error { return os.Remove(filepath.Join(dir, all[1].name)) },
			all[2].name + " at offset 0: segment 0000000000000001, which should be before it, is missing; the last sound record is state with commit index"},
		"the end of a segment cut off": {func(dir string) error { return os.Truncate(filepath.Join(dir, all[0].name), 144) },
			all[1].name + " at offset 0: the segment does not follow on the one before"},
		"a record of a segment cut": {func(dir string) error { return os.Truncate(filepath.Join(dir, all[0].name), 160) },
			all[0].name + " at offset"},
		"the first record": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, all[0].name), bytes.Repeat([]byte{1, 0, 0, 0, 0, 0, 0, 0x87}, 64), 0o600)
		}, all[0].name + " at offset 0: "},
		"no segment": {func(dir string) error {
			for _, s := range all {
				if err := os.Remove(filepath.Join(dir, s.name)); err != nil {
					return err
				}
			}
			return nil
		}, "there is no segment in it; nothing sound precedes it"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, sound)
			require.NoError(t, test.damage(dir))
			_, _, err := scanned(dir)
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, test.want)
		})
	}
	_, _, err = scanned(filepath.Join(sound, "absent"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Files(filepath.Join(sound, "absent"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}
