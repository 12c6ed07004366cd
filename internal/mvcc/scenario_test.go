package mvcc

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/watch"
)

func openEngine(t testing.TB) engine.Engine {
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, eng.Close()) })
	return eng
}

// scenario is a store over a memory engine with the view that it published last.
type scenario struct {
	t     *testing.T
	eng   engine.Engine
	store *Store
	view  *View
	now   time.Time
}

// TestScenarios runs testdata. The commands are:
//
//	turn             transactions, a line each, of "put k v [lease]", "del k [end]", "get k [end]" and "lookup k", divided by
//	                 semicolons; then commit and publish. A line may also be "compact n".
//	range key=..     every option of RangeOptions by its name in lower case; end=all for the end of the key space
//	history from=n to=n [key=k end=k]
//	remove limit=n   a step of removal
//	engine           the revisions that the engine holds
//	reload           a new store from the engine
//	bounds every=n moments=n between=n bytes=n
//	expire after=s   some seconds pass
//	recent           the moments: revision, then the changes up to the next
//	way rev=n        from which root a range at a revision is read
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &scenario{t: t, eng: openEngine(t), now: time.Unix(0, 0)}
		s.reload()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			return s.run(d)
		})
	})
}

func (s *scenario) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "turn":
		return s.turn(strings.Split(d.Input, "\n"))
	case "range":
		res, err := s.view.Range(options(d))
		return formatRange(res, err)
	case "history":
		return s.history(d)
	case "remove":
		var done Removed
		s.commit(func() { done = s.store.RemoveSome(number(d, "limit"), true) })
		below, due := s.store.RemovalDue()
		return fmt.Sprintf("%+v due %v below %d; %s", done, due, below, s.sizes())
	case "engine":
		return s.content()
	case "reload":
		return s.reload()
	}
	if out, ok := s.runRecent(d); ok {
		return out
	}
	d.Fatalf(s.t, "unknown command %q", d.Cmd)
	return ""
}

func (s *scenario) reload() string {
	var b strings.Builder
	var err error
	s.store, err = Load(s.eng, nil, func(a Attachment) { fmt.Fprintf(&b, "%s has lease %d\n", a.Key, a.Lease) })
	require.NoError(s.t, err)
	s.view = s.store.Publish()
	return b.String() + s.sizes()
}

func (s *scenario) sizes() string {
	v := s.view
	require.Equal(s.t, []int64{s.store.Current(), s.store.Compacted(), s.store.Keys(), s.store.Bytes()},
		[]int64{v.Current(), v.Compacted(), v.Keys(), v.Bytes()})
	return fmt.Sprintf("current %d compacted %d finished %d keys %d bytes %d\n",
		v.Current(), v.Compacted(), s.store.Finished(), v.Keys(), v.Bytes())
}

func (s *scenario) commit(change func()) {
	batch := &engine.Batch{}
	s.store.Begin(batch)
	change()
	require.NoError(s.t, s.eng.Commit(batch))
	s.view = s.store.Publish()
	invariants(s.t, s.view.root, nil, nil, s.store.tree.gen)
	s.store.recent.check(s.t, s.view.root)
}

func (s *scenario) turn(lines []string) string {
	var b strings.Builder
	s.commit(func() {
		for _, line := range lines {
			if rev, ok := strings.CutPrefix(line, "compact "); ok {
				n, err := strconv.ParseInt(rev, 10, 64)
				require.NoError(s.t, err)
				fmt.Fprintf(&b, "compact: %v\n", s.store.Compact(n))
				continue
			}
			txn := s.store.Txn()
			for _, op := range strings.Split(line, ";") {
				b.WriteString(s.op(txn, strings.Fields(op)))
			}
			fmt.Fprintf(&b, "revision %d then %d\n", txn.Revision(), txn.End())
		}
		for _, e := range s.store.Events() {
			b.WriteString(formatEvent(e))
		}
	})
	return b.String()
}

func (s *scenario) op(txn *Txn, words []string) string {
	words = append(words, "", "", "")
	key, end := []byte(words[1]), endOf(words[2])
	switch words[0] {
	case "put":
		lease, _ := strconv.ParseInt(words[3], 10, 64)
		prev, err := txn.Put(key, []byte(words[2]), lease)
		require.NoError(s.t, err)
		if prev.KV != nil {
			return fmt.Sprintf("put over %s lease %d\n", formatKV(prev.KV), prev.Lease)
		}
		return "put\n"
	case "del":
		deleted, err := txn.DeleteRange(key, end)
		require.NoError(s.t, err)
		out := "deleted"
		for _, d := range deleted {
			out += fmt.Sprintf(" %s lease %d", formatKV(d.KV), d.Lease)
		}
		return out + "\n"
	case "lookup":
		prev, found, err := txn.Lookup(key)
		require.NoError(s.t, err)
		return fmt.Sprintf("lookup %v %s lease %d\n", found, formatKV(prev.KV), prev.Lease)
	}
	res, err := txn.Range(RangeOptions{Key: key, End: end})
	return formatRange(res, err)
}

func (s *scenario) history(d *datadriven.TestData) string {
	var b strings.Builder
	key, end := []byte{0}, []byte{0}
	if k := text(d, "key"); k != "" {
		key, end = []byte(k), endOf(text(d, "end"))
	}
	err := s.view.Events(int64(number(d, "from")), int64(number(d, "to")), key, end, func(e watch.Event) bool {
		b.WriteString(formatEvent(e))
		return true
	})
	if err != nil {
		fmt.Fprintln(&b, err)
	}
	return b.String()
}

func (s *scenario) content() string {
	var b strings.Builder
	sn, err := s.eng.Snapshot()
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, sn.Close()) }()
	require.NoError(s.t, sn.Scan(nil, engine.RevisionsEnd, false, func(k, v []byte) bool {
		rev, tombstone, err := ParseEngineKey(k)
		require.NoError(s.t, err)
		fmt.Fprintf(&b, "%d.%d %v %s\n", rev.Main, rev.Sub, tombstone, formatKV(v))
		return true
	}))
	return b.String()
}

func options(d *datadriven.TestData) RangeOptions {
	num := func(key string) int64 { return int64(number(d, key)) }
	return RangeOptions{
		Key: []byte(text(d, "key")), End: endOf(text(d, "end")), Revision: num("rev"), Limit: num("limit"),
		CountOnly: d.HasArg("countonly"), KeysOnly: d.HasArg("keysonly"), KeysLease: d.HasArg("keyslease"),
		Order: SortOrder(num("order")), Target: SortTarget(num("target")),
		MinMod: num("minmod"), MaxMod: num("maxmod"), MinCreate: num("mincreate"), MaxCreate: num("maxcreate"),
	}
}

func endOf(text string) []byte {
	switch text {
	case "":
		return nil
	case "all":
		return []byte{0}
	}
	return []byte(text)
}

func text(d *datadriven.TestData, key string) string {
	for _, arg := range d.CmdArgs {
		if arg.Key == key && len(arg.Vals) == 1 {
			return arg.Vals[0]
		}
	}
	return ""
}

func number(d *datadriven.TestData, key string) int {
	n, _ := strconv.Atoi(text(d, key))
	return n
}

func formatRange(r RangeResult, err error) string {
	if err != nil {
		return err.Error() + "\n"
	}
	s := fmt.Sprintf("rev %d count %d more %v:", r.Revision, r.Count, r.More)
	for _, kv := range r.KVs {
		s += " " + formatKV(kv)
	}
	return s + "\n"
}

// formatKV gives "key=value/create.mod.version", with "!lease" behind it if there is one.
func formatKV(b []byte) string {
	kv, err := DecodeKeyValue(b)
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s=%s/%d.%d.%d", kv.Key, kv.Value, kv.Create, kv.Mod, kv.Ver)
	if kv.LeaseID != 0 {
		s += fmt.Sprintf("!%d", kv.LeaseID)
	}
	return s
}

func formatEvent(e watch.Event) string {
	kind := "put"
	if e.Delete {
		kind = "delete"
	}
	s := fmt.Sprintf("  event %d.%d %s %s", e.Main, e.Sub, kind, formatKV(e.KV))
	if e.Prev != nil {
		s += " prev " + formatKV(e.Prev)
	}
	return s + "\n"
}
