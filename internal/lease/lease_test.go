package lease

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// scenario is one table with the expiry that follows it, as a member has them.
type scenario struct {
	t       *testing.T
	store   store
	batch   engine.Batch
	table   *Table
	expiry  *Expiry
	start   time.Time
	settled map[int64]<-chan struct{}
}

func newScenario(t *testing.T) *scenario {
	s := &scenario{t: t, store: store{}, start: time.Unix(1000, 0), settled: map[int64]<-chan struct{}{}}
	s.restart()
	return s
}

func (s *scenario) restart() {
	s.store.commit(&s.batch)
	table, err := Load(s.store, 2)
	if err != nil {
		s.t.Fatal(err)
	}
	s.table = table
	s.expiry = NewExpiry(Options{RevokeRate: 4}, s.start)
	s.expiry.Apply(table.Changes(), s.start)
}

// now reads the argument now=, in seconds with a fraction.
func (s *scenario) now(d *datadriven.TestData) time.Time {
	sec := 0.0
	if d.HasArg("now") {
		var v string
		d.ScanArgs(s.t, "now", &v)
		if _, err := fmt.Sscanf(v, "%g", &sec); err != nil {
			d.Fatalf(s.t, "now=%s: %v", v, err)
		}
	}
	return s.start.Add(time.Duration(sec * float64(time.Second)))
}

func (s *scenario) arg(d *datadriven.TestData, name string) (v int64) {
	d.ScanArgs(s.t, name, &v)
	return v
}

func (s *scenario) run(d *datadriven.TestData) string {
	switch d.Cmd {
	case "restart":
		s.restart()
		return fmt.Sprintf("%d leases\n", s.table.Len())
	case "grant", "revoke", "checkpoint", "attach", "detach", "get":
		return s.runTable(d)
	case "promote":
		s.expiry.Promote(s.now(d), time.Duration(s.arg(d, "extend"))*time.Second)
		return ""
	case "demote":
		s.expiry.Demote()
		return ""
	}
	return s.runExpiry(d)
}

func (s *scenario) runTable(d *datadriven.TestData) string {
	id := s.arg(d, "id")
	var out string
	var err error
	switch d.Cmd {
	case "grant":
		var ttl int64
		ttl, err = s.table.Grant(&s.batch, id, s.arg(d, "ttl"))
		out = fmt.Sprintf("ttl %d\n", ttl)
	case "revoke":
		var keys []string
		keys, err = s.table.Revoke(&s.batch, id)
		out = fmt.Sprintf("keys %q\n", keys)
	case "checkpoint":
		err = s.table.Checkpoint(&s.batch, id, s.arg(d, "remaining"))
	case "attach", "detach":
		for _, key := range strings.Fields(d.Input) {
			if d.Cmd == "attach" {
				err = errors.Join(err, s.table.Attach(id, key))
			} else {
				err = errors.Join(err, s.table.Detach(id, key))
			}
		}
	case "get":
		l, ok := s.table.Get(id)
		return fmt.Sprintf("%v ttl %d remaining %d keys %q\n", ok, l.TTL, l.Remaining, s.table.Keys(id))
	}
	if err != nil {
		return err.Error() + "\n"
	}
	for _, c := range s.table.Changes() {
		s.expiry.Apply([]Change{c}, s.now(d))
	}
	return out
}

func (s *scenario) runExpiry(d *datadriven.TestData) string {
	now := s.now(d)
	switch d.Cmd {
	case "renew":
		id := s.arg(d, "id")
		r, err := s.expiry.Renew(id, now)
		if errors.Is(err, ErrExpired) {
			s.settled[id] = r.Settled
		}
		if err != nil {
			return err.Error() + "\n"
		}
		return fmt.Sprintf("ttl %d clear %v\n", r.TTL, r.ClearCheckpoint)
	case "settled":
		select {
		case <-s.settled[s.arg(d, "id")]:
			return "true\n"
		default:
			return "false\n"
		}
	case "remaining":
		left, granted, err := s.expiry.Remaining(s.arg(d, "id"), now)
		if err != nil {
			return err.Error() + "\n"
		}
		return fmt.Sprintf("%v of %d\n", left, granted)
	case "expired":
		return fmt.Sprintln(s.expiry.Expired(now, int(s.arg(d, "limit"))))
	case "checkpoints":
		return fmt.Sprintln(s.expiry.Checkpoints(now, int(s.arg(d, "limit"))))
	case "all":
		return fmt.Sprintln(s.expiry.All())
	}
	d.Fatalf(s.t, "unknown command %s", d.Cmd)
	return ""
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := newScenario(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(d) })
	})
}

func TestLoadRefusesCorruptLeases(t *testing.T) {
	good := store{}
	var b engine.Batch
	if _, err := persist(&b, Lease{ID: 7, TTL: 10}); err != nil {
		t.Fatal(err)
	}
	good.commit(&b)
	value := good[string(engineKey(7))]
	for name, s := range map[string]store{
		"short key":   {string(engineKey(7)[:5]): value},
		"other id":    {string(engineKey(8)): value},
		"no protobuf": {string(engineKey(7)): []byte{0xff}},
	} {
		if _, err := Load(s, 2); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: got %v, want ErrCorrupt", name, err)
		}
	}
	if _, err := Load(store(nil), 2); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("failing scan: got %v, want ErrClosed", err)
	}
}

// TestManyKeys crosses the border between the slice and the map of a key set, both ways.
func TestManyKeys(t *testing.T) {
	table, err := Load(store{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	var b engine.Batch
	if _, err := table.Grant(&b, 1, 10); err != nil {
		t.Fatal(err)
	}
	const n = 5 * fewKeys
	for round := range 3 {
		for i := n - 1; i >= 0; i-- {
			for range 2 {
				if err := table.Attach(1, fmt.Sprintf("k%03d", i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		keys := table.Keys(1)
		if len(keys) != n || keys[0] != "k000" || keys[n-1] != fmt.Sprintf("k%03d", n-1) {
			t.Fatalf("round %d: got %q", round, keys)
		}
		for i := range n {
			if err := table.Detach(1, fmt.Sprintf("k%03d", i)); err != nil {
				t.Fatal(err)
			}
			if got := len(table.Keys(1)); got != n-1-i {
				t.Fatalf("round %d: %d keys left after %d detached", round, got, i+1)
			}
		}
	}
}
