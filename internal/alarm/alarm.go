// Package alarm keeps the alarms that members have raised. While one is raised the whole cluster refuses
// some requests, so alarms are replicated: a Table belongs to the applier and changes only by applied
// entries. Readers on other goroutines use its immutable View.
package alarm

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// ErrCorrupt says that a stored alarm cannot be read. It is a failure: the member must stop.
var ErrCorrupt = errors.New("alarm: stored alarm is corrupt")

// Type is the type of an alarm; its values are those of etcdserverpb.AlarmType.
type Type int32

// The types of alarms. None is no alarm; as a filter it means any.
const (
	None Type = iota
	// NoSpace refuses writes that add data.
	NoSpace
	// Corrupt refuses everything that is applied.
	Corrupt
)

// String returns the name that operators and clients know the type by.
func (t Type) String() string { return etcdserverpb.AlarmType(t).String() }

// Alarm is one raised alarm.
type Alarm struct {
	// Member is the ID of the member that is concerned. It need not be a member of the cluster.
	Member uint64
	Type   Type
}

func compare(a, b Alarm) int {
	return cmp.Or(cmp.Compare(a.Member, b.Member), cmp.Compare(a.Type, b.Type))
}

// View is the raised alarms at one applied index. It never changes and may be read from any goroutine.
type View struct {
	// Alarms are ordered by member, then type. They must not be modified.
	Alarms []Alarm
	// NoSpace and Corrupt say whether any member raised that alarm.
	NoSpace, Corrupt bool
}

// Get returns the alarms of a type by ascending member, or all alarms for None.
func (v *View) Get(kind Type) []Alarm {
	var found []Alarm
	for _, a := range v.Alarms {
		if kind == None || a.Type == kind {
			found = append(found, a)
		}
	}
	return found
}

// Raised says whether a member's alarm of a type is raised.
func (v *View) Raised(member uint64, kind Type) bool {
	_, found := slices.BinarySearchFunc(v.Alarms, Alarm{member, kind}, compare)
	return found
}

func newView(alarms []Alarm) *View {
	v := &View{Alarms: alarms}
	for _, a := range alarms {
		v.NoSpace = v.NoSpace || a.Type == NoSpace
		v.Corrupt = v.Corrupt || a.Type == Corrupt
	}
	return v
}

// Table is the alarms that the applier raises and lowers. It is not safe for use by several goroutines;
// the views it hands out are.
type Table struct {
	view *View
}

// Load reads the table from an engine. Errors: ErrCorrupt, or what the engine reports; both are failures.
func Load(s engine.Snapshot) (*Table, error) {
	var (
		alarms []Alarm
		bad    error
	)
	lo, hi := engine.TableRange(engine.TableAlarm)
	err := s.Scan(lo, hi, false, func(k, _ []byte) bool {
		var a Alarm
		if a, bad = decode(k[1:]); bad != nil {
			return false
		}
		alarms = append(alarms, a)
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("alarm: load: %w", err)
	}
	if bad != nil {
		return nil, bad
	}
	slices.SortFunc(alarms, compare)
	return &Table{view: newView(alarms)}, nil
}

// Snapshot returns the alarms raised now.
func (t *Table) Snapshot() *View { return t.view }

// Activate raises an alarm and reports whether it was raised already. None raises nothing.
func (t *Table) Activate(b *engine.Batch, member uint64, kind Type) (already bool) {
	if kind == None {
		return false
	}
	a := Alarm{member, kind}
	i, found := slices.BinarySearchFunc(t.view.Alarms, a, compare)
	if found {
		return true
	}
	b.Put(engineKey(a), nil)
	t.view = newView(slices.Insert(slices.Clone(t.view.Alarms), i, a))
	return false
}

// Deactivate lowers an alarm and reports whether it was raised.
func (t *Table) Deactivate(b *engine.Batch, member uint64, kind Type) (was bool) {
	a := Alarm{member, kind}
	i, found := slices.BinarySearchFunc(t.view.Alarms, a, compare)
	if !found {
		return false
	}
	b.Delete(engineKey(a))
	t.view = newView(slices.Delete(slices.Clone(t.view.Alarms), i, i+1))
	return true
}

// Field numbers of etcdserverpb.AlarmMember.
const (
	fieldMember = 1
	fieldType   = 2
)

// A stored alarm:
//
//	+------------+----------------------------------------------+
//	| TableAlarm | etcdserverpb.AlarmMember{memberID=1, alarm=2} | -> nothing
//	+------------+----------------------------------------------+
//
// The message is a key, so it has one encoding only: fields in order, zeros left out.
func engineKey(a Alarm) []byte {
	k := []byte{engine.TableAlarm}
	if a.Member != 0 {
		k = protowire.AppendVarint(protowire.AppendTag(k, fieldMember, protowire.VarintType), a.Member)
	}
	k = protowire.AppendTag(k, fieldType, protowire.VarintType)
	return protowire.AppendVarint(k, uint64(int64(a.Type)))
}

func decode(key []byte) (Alarm, error) {
	var m etcdserverpb.AlarmMember
	if err := proto.Unmarshal(key, &m); err != nil {
		return Alarm{}, fmt.Errorf("%w: key %x: %w", ErrCorrupt, key, err)
	}
	a := Alarm{m.GetMemberID(), Type(m.GetAlarm())}
	if a.Type == None {
		return Alarm{}, fmt.Errorf("%w: key %x holds no type of alarm", ErrCorrupt, key)
	}
	return a, nil
}
