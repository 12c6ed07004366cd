package interchange

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
)

// edit makes a file of a sample and changes it through bbolt.
func edit(t testing.TB, change func(tx *bbolt.Tx) error) string {
	t.Helper()
	eng := newEngine(t, "memory")
	fill(t, eng, sample(t, 11, 60))
	path := export(t, eng)
	db, err := bbolt.Open(path, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(change))
	require.NoError(t, db.Close())
	return path
}

func TestDamagedRecords(t *testing.T) {
	rev := mvcc.Revision{Main: 500}.EngineKey(false)
	user := func(b *bbolt.Bucket) error { return b.Put([]byte("eve"), []byte("\x0a\x04mary")) }
	for name, tc := range map[string]struct {
		bucket string
		change func(b *bbolt.Bucket) error
		cause  error
		text   string
	}{
		"key length": {"key", func(b *bbolt.Bucket) error { return b.Put([]byte("zz"), nil) }, ErrDamaged, `bucket "key": key "zz" mvcc: revision key 7a7a is 2 bytes long, want 17 or 18`},
		"separator":  {"key", func(b *bbolt.Bucket) error { return b.Put([]byte("0123456789abcdefg"), nil) }, ErrDamaged, "no separator"},
		"negative":   {"key", func(b *bbolt.Bucket) error { return b.Put(mvcc.Revision{Main: -1}.EngineKey(false), nil) }, ErrDamaged, "is negative"},
		"value":      {"key", func(b *bbolt.Bucket) error { return b.Put(rev, []byte{0xff}) }, ErrDamaged, "not an encoded KeyValue"},
		"other revision": {"key", func(b *bbolt.Bucket) error {
			return b.Put(rev, (&mvcc.KeyValue{Key: []byte("a"), Create: 1, Mod: 499, Ver: 1}).Encode())
		}, ErrDamaged, `holds key "a" modified at 499`},
		"no key":             {"key", func(b *bbolt.Bucket) error { return b.Put(rev, (&mvcc.KeyValue{Create: 1, Mod: 500, Ver: 1}).Encode()) }, ErrDamaged, "holds no key"},
		"delete of no key":   {"key", func(b *bbolt.Bucket) error { return b.Put(mvcc.Revision{Main: 500}.EngineKey(true), nil) }, ErrDamaged, "is a delete of no key"},
		"lease key":          {"lease", func(b *bbolt.Bucket) error { return b.Put([]byte{1}, nil) }, ErrDamaged, `bucket "lease": key 01 is 1 bytes long, want 8`},
		"lease value":        {"lease", func(b *bbolt.Bucket) error { return b.Put([]byte("12345678"), []byte{8, 1}) }, ErrDamaged, "holds lease 0000000000000001"},
		"lease proto":        {"lease", func(b *bbolt.Bucket) error { return b.Put([]byte("12345678"), []byte{0xff}) }, ErrDamaged, "holds no lease"},
		"alarm":              {"alarm", func(b *bbolt.Bucket) error { return b.Put([]byte{8, 1}, nil) }, ErrDamaged, "is no raised alarm"},
		"alarm proto":        {"alarm", func(b *bbolt.Bucket) error { return b.Put([]byte{0xff}, nil) }, ErrDamaged, "is no alarm"},
		"auth enabled":       {"auth", func(b *bbolt.Bucket) error { return b.Put([]byte(authEnabledKey), []byte{2}) }, ErrDamaged, "neither 00 nor 01"},
		"auth revision":      {"auth", func(b *bbolt.Bucket) error { return b.Put([]byte(authRevisionKey), []byte{2}) }, ErrDamaged, "want 8"},
		"auth unknown":       {"auth", func(b *bbolt.Bucket) error { return b.Put([]byte("quota"), nil) }, ErrVersion, `bucket "auth": key "quota" is a record this version does not know`},
		"user":               {"authUsers", user, ErrDamaged, `key "eve" holds user "mary"`},
		"user proto":         {"authUsers", func(b *bbolt.Bucket) error { return b.Put([]byte("eve"), []byte{0xff}) }, ErrDamaged, "holds no user"},
		"role":               {"authRoles", user, ErrDamaged, `key "eve" holds role "mary"`},
		"role proto":         {"authRoles", func(b *bbolt.Bucket) error { return b.Put([]byte("eve"), []byte{0xff}) }, ErrDamaged, "holds no role"},
		"member key":         {"members", func(b *bbolt.Bucket) error { return b.Put([]byte("0a"), nil) }, ErrDamaged, "is not a member's ID"},
		"member json":        {"members", func(b *bbolt.Bucket) error { return b.Put([]byte("a"), nil) }, ErrDamaged, "holds no member"},
		"member id":          {"members", func(b *bbolt.Bucket) error { return b.Put([]byte("a"), []byte(`{"id":11}`)) }, ErrDamaged, "holds member b"},
		"removed":            {"members_removed", func(b *bbolt.Bucket) error { return b.Put([]byte("Z"), nil) }, ErrDamaged, "is not a member's ID"},
		"cluster version":    {"cluster", func(b *bbolt.Bucket) error { return b.Put([]byte(clusterVersionKey), []byte("3")) }, ErrDamaged, "holds no version"},
		"downgrade":          {"cluster", func(b *bbolt.Bucket) error { return b.Put([]byte(downgradeKey), nil) }, ErrDamaged, "holds no downgrade"},
		"downgrade target":   {"cluster", func(b *bbolt.Bucket) error { return b.Put([]byte(downgradeKey), []byte(`{"enabled":true}`)) }, ErrDamaged, "holds no version"},
		"cluster unknown":    {"cluster", func(b *bbolt.Bucket) error { return b.Put([]byte("x"), nil) }, ErrVersion, "does not know"},
		"index":              {"meta", func(b *bbolt.Bucket) error { return b.Put([]byte(indexKey), []byte{1}) }, ErrDamaged, "want 8"},
		"conf state":         {"meta", func(b *bbolt.Bucket) error { return b.Put([]byte(confStateKey), []byte("{")) }, ErrDamaged, "holds no configuration"},
		"compaction":         {"meta", func(b *bbolt.Bucket) error { return b.Put([]byte(finishedKey), []byte{1}) }, ErrDamaged, "1 bytes long"},
		"compaction, delete": {"meta", func(b *bbolt.Bucket) error { return b.Put([]byte(finishedKey), mvcc.Revision{Main: 5}.EngineKey(true)) }, ErrDamaged, "revision of a delete"},
		"meta unknown":       {"meta", func(b *bbolt.Bucket) error { return b.Put([]byte("x"), nil) }, ErrVersion, "does not know"},
		"newer version":      {"meta", func(b *bbolt.Bucket) error { return b.Put([]byte(storageVersionKey), []byte("3.8.0")) }, ErrVersion, "it says version 3.8.0, this program knows up to 3.7"},
		"bad version":        {"meta", func(b *bbolt.Bucket) error { return b.Put([]byte(storageVersionKey), []byte("new")) }, ErrDamaged, "holds no version"},
		"nested bucket": {"key", func(b *bbolt.Bucket) error {
			_, err := b.CreateBucket([]byte("in"))
			return err
		}, ErrDamaged, "is a bucket where a record must be"},
	} {
		t.Run(name, func(t *testing.T) {
			path := edit(t, func(tx *bbolt.Tx) error { return tc.change(tx.Bucket([]byte(tc.bucket))) })
			to := newEngine(t, "memory")
			_, err := open(t, path).Import(t.Context(), to, Options{})
			require.ErrorIs(t, err, tc.cause)
			require.ErrorContains(t, err, path)
			require.ErrorContains(t, err, tc.text)
			got, err := state.AppliedIn(snapshot(t, to))
			require.NoError(t, err)
			require.Zero(t, got.Index)
		})
	}
}

func TestBuckets(t *testing.T) {
	for _, b := range buckets() {
		path := edit(t, func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte(b.name)) })
		_, err := open(t, path).Scan(t.Context(), nil, nil)
		require.ErrorIs(t, err, ErrDamaged)
		require.ErrorContains(t, err, `bucket "`+b.name+`" is missing`)
	}
	for _, name := range []string{"a", "leases", "zoo"} {
		path := edit(t, func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucket([]byte(name))
			return err
		})
		_, err := open(t, path).Scan(t.Context(), nil, nil)
		require.ErrorIs(t, err, ErrVersion, name)
	}
	path := edit(t, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("members"))
		return b.ForEach(func(k, _ []byte) error { return b.Delete(k) })
	})
	_, err := open(t, path).Import(t.Context(), newEngine(t, "memory"), Options{})
	require.ErrorContains(t, err, "knows no voting member")
}

// TestOlderVersions: before 3.6 there was no version in the file, before 3.5 no term either.
func TestOlderVersions(t *testing.T) {
	older := func(keys ...string) string {
		return edit(t, func(tx *bbolt.Tx) error {
			for _, key := range keys {
				if err := tx.Bucket([]byte(bucketMeta)).Delete([]byte(key)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	c, err := open(t, older(storageVersionKey)).Import(t.Context(), newEngine(t, "memory"), Options{})
	require.NoError(t, err)
	require.Empty(t, c.Version)
	_, err = open(t, older(storageVersionKey, termKey)).Import(t.Context(), newEngine(t, "memory"), Options{})
	require.ErrorIs(t, err, ErrVersion)
	require.ErrorContains(t, err, "as before etcd 3.5")
}

// TestCutOff cuts a file at every page and within one: nothing of it may be believed, and nothing may crash.
func TestCutOff(t *testing.T) {
	eng := newEngine(t, "memory")
	fill(t, eng, sample(t, 12, 60))
	whole, err := os.ReadFile(export(t, eng))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "cut")
	for n := 0; n < len(whole); n += 2048 {
		require.NoError(t, os.WriteFile(path, whole[:n], 0o600))
		f, err := Open(t.Context(), path)
		if err == nil {
			_, err = f.Scan(t.Context(), nil, nil)
			require.NoError(t, f.Close())
		}
		require.ErrorIs(t, err, ErrDamaged, n)
		require.ErrorContains(t, err, path)
	}
}

// TestFlippedBits flips bits in the structure of every page, some hundred of them. A file may read as another
// one than it was only in the bytes of a record; whatever happens, nothing crashes, and each refusal names the file.
func TestFlippedBits(t *testing.T) {
	eng := newEngine(t, "memory")
	fill(t, eng, sample(t, 13, 15))
	whole, err := os.ReadFile(export(t, eng))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "bad")
	refused, bits := 0, 0
	for page := 0; page*4096 < len(whole); page++ {
		for at := range 64 {
			if page >= 2 && at >= 24 && at%8 != page%8 {
				continue
			}
			bits++
			bad := append([]byte(nil), whole...)
			bad[page*4096+at] ^= 1 << (at % 8)
			require.NoError(t, os.WriteFile(path, bad, 0o600))
			f, err := Open(t.Context(), path)
			if err == nil {
				_, err = f.Scan(t.Context(), nil, nil)
				require.NoError(t, f.Close())
			}
			if err != nil {
				refused++
				require.ErrorContains(t, err, path)
				require.True(t, errors.Is(err, ErrDamaged) || errors.Is(err, ErrVersion), "page %d, byte %d: %v", page, at, err)
			}
		}
	}
	require.Greater(t, refused, bits/5)
	t.Logf("%d of %d flipped bits were noticed without the checksum", refused, bits)
}

// TestPageReferences writes wrong references, which bbolt would follow out of the file, into pages.
func TestPageReferences(t *testing.T) {
	eng := newEngine(t, "memory")
	fill(t, eng, sample(t, 14, 3000))
	whole, err := os.ReadFile(export(t, eng))
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "bad")
	branch := 0
	for page := 2; page*4096 < len(whole); page++ {
		if binary.NativeEndian.Uint16(whole[page*4096+8:]) == flagBranch {
			branch = page * 4096
		}
	}
	require.NotZero(t, branch, "the sample is too small")
	for text, change := range map[string]func(b []byte){
		"is referred to, of":      func(b []byte) { binary.NativeEndian.PutUint64(b[branch+24:], 1<<40) },
		"is referred to twice":    func(b []byte) { copy(b[branch+40:branch+48], b[branch+24:branch+32]) },
		"it says that it is page": func(b []byte) { b[branch] ^= 0xff },
		"it claims to span":       func(b []byte) { binary.NativeEndian.PutUint32(b[branch+12:], 1<<30) },
		"neither branch nor leaf": func(b []byte) { b[branch+8] = 0x40 },
		"it claims to have":       func(b []byte) { binary.NativeEndian.PutUint16(b[branch+10:], 0xffff) },
		"the key of entry 0 lies": func(b []byte) { binary.NativeEndian.PutUint32(b[branch+16:], 1<<31) },
		"checksum error":          func(b []byte) { b[16+16] ^= 1; b[4096+16+16] ^= 1 },
		"list of free pages":      func(b []byte) { freelistOf(b)[8] = 0 },
		"free pages":              func(b []byte) { binary.NativeEndian.PutUint16(freelistOf(b)[10:], 0xfff0) },
	} {
		bad := append([]byte(nil), whole...)
		change(bad)
		require.NoError(t, os.WriteFile(path, bad, 0o600))
		f, err := Open(t.Context(), path)
		if err == nil {
			_, err = f.Scan(t.Context(), nil, nil)
			require.NoError(t, f.Close())
		}
		require.ErrorIs(t, err, ErrDamaged)
		require.ErrorContains(t, err, text)
	}
}

func freelistOf(b []byte) []byte {
	newest := 0
	if binary.NativeEndian.Uint64(b[4096+16+48:]) > binary.NativeEndian.Uint64(b[16+48:]) {
		newest = 4096
	}
	return b[binary.NativeEndian.Uint64(b[newest+16+32:])*4096:]
}

// FuzzRecords: a check never panics, and what passes is loaded by the packages that own the records, so that a
// member which has taken a file over also opens it.
func FuzzRecords(f *testing.F) {
	for i, b := range buckets() {
		f.Add(uint8(i), []byte("0123456789abcdefg"), []byte(b.name))
	}
	for key, value := range sample(f, 15, 20) {
		if key[0] < engine.TableMeta {
			f.Add(uint8(5), []byte(key), value)
			continue
		}
		for i, b := range buckets() {
			if b.table == key[0] {
				f.Add(uint8(i), []byte(key[1:]), value)
			}
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, key, value []byte) {
		all := buckets()
		b := all[int(which)%len(all)]
		if len(key) == 0 || b.check(key, value) != nil {
			return
		}
		eng := newEngine(t, "memory")
		var batch engine.Batch
		if b.name != bucketMeta || string(key) == scheduledKey || string(key) == finishedKey {
			batch.Put(b.engineKey(key), value)
		}
		require.NoError(t, eng.Commit(&batch))
		_, err := state.Open(eng, state.Config{MinTTL: 1})
		require.NoError(t, err, "bucket %s: %q = %q", b.name, key, value)
	})
}
