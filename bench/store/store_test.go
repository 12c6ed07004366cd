package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Both stores hold the same and answer alike, in either state: what is compared is the same work.
func TestStoresAgree(t *testing.T) {
	const n = 2000
	for _, name := range []string{"pebble", "memory"} {
		stores := map[string]store{}
		for _, s := range []string{etcdName, oursName} {
			var err error
			stores[s], err = open(s, name, t.TempDir())
			require.NoError(t, err)
			require.NoError(t, fill(stores[s], n, 16))
		}
		reads, err := prepareReads(stores, options{readKeys: n, valueSize: 16})
		require.NoError(t, err)
		e, o := stores[etcdName], stores[oursName]
		require.Equal(t, e.revision(), o.revision())
		for _, r := range reads {
			require.NoError(t, r.run(e), r.name)
			require.NoError(t, r.run(o), r.name)
		}
		for _, rev := range []int64{0, n, n + 10} {
			want, err := e.count(keyRange{key(30), key(1700)}, rev)
			require.NoError(t, err)
			got, err := o.count(keyRange{key(30), key(1700)}, rev)
			require.NoError(t, err)
			require.Equal(t, want, got)
			_, want, err = e.page(everything, rev, pageSize)
			require.NoError(t, err)
			keys, got, err := o.page(everything, rev, pageSize)
			require.NoError(t, err)
			require.Equal(t, []int{pageSize, want}, []int{keys, got})
		}
		require.NoError(t, e.close())
		require.NoError(t, o.close())
	}
}

func TestSteps(t *testing.T) {
	for _, name := range []string{etcdName, oursName} {
		o := options{keys: 500, valueSize: 10, engine: "memory", dir: t.TempDir()}
		for _, step := range []string{stepLoad, stepOpen} {
			m, err := measureStep(o, step, name)
			require.NoError(t, err)
			require.Equal(t, step, m[0].Name)
			for _, f := range m[:4] {
				require.Positive(t, f.Value, "%s of %s", f.Name, name)
			}
		}
	}
	_, err := measureStep(options{engine: "none", dir: t.TempDir()}, stepLoad, oursName)
	require.ErrorContains(t, err, `no engine "none"`)
}

func TestTable(t *testing.T) {
	tab := newTable()
	for _, v := range []float64{30, 10, 20} {
		tab.add("page", unitMicroseconds, etcdName, v)
	}
	for _, v := range []float64{4, 1, 3, 2} {
		tab.add("page", unitMicroseconds, oursName, v)
	}
	f, err := os.Create(t.TempDir() + "/table")
	require.NoError(t, err)
	require.NoError(t, tab.print(f))
	require.NoError(t, f.Close())
	text, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.Equal(t, []string{"etcd", "ours", "etcd/ours", "page", "[us]", "20", "2.5", "8"}, strings.Fields(string(text)))
	require.Len(t, key(123_456), keySize)
}
