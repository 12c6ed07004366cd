package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// appliedKey holds, in every batch, the raft position that the batch leads to:
//
//	+----------------+---------------+----------------------------+
//	| index, 8 B BE  | term, 8 B BE  | raftpb.ConfState, protobuf |
//	+----------------+---------------+----------------------------+
var appliedKey = engine.TableKey(engine.TableMeta, []byte("applied"))

// Applied is a position in the raft log with the configuration in force there.
type Applied struct {
	Index, Term uint64
	Conf        *raftpb.ConfState
}

func (a Applied) encode(conf []byte) []byte {
	b := make([]byte, 0, 16+len(conf))
	b = binary.BigEndian.AppendUint64(b, a.Index)
	b = binary.BigEndian.AppendUint64(b, a.Term)
	return append(b, conf...)
}

func decodeApplied(b []byte) (Applied, error) {
	if len(b) < 16 {
		return Applied{}, fmt.Errorf("state: the applied index is %d bytes long, want at least 16: %w", len(b), engine.ErrCorrupt)
	}
	a := Applied{Index: binary.BigEndian.Uint64(b), Term: binary.BigEndian.Uint64(b[8:]), Conf: &raftpb.ConfState{}}
	if err := proto.Unmarshal(b[16:], a.Conf); err != nil {
		return Applied{}, fmt.Errorf("state: the configuration at index %d: %w: %w", a.Index, err, engine.ErrCorrupt)
	}
	return a, nil
}

// Durable returns the position up to which the engine would be after a crash at this moment. The raft log
// must be kept from there on.
func Durable(eng engine.Engine) (Applied, error) { return readApplied(eng.Durable(appliedKey)) }

// AppliedIn returns the position that a view of an engine is at.
func AppliedIn(sn engine.Snapshot) (Applied, error) { return readApplied(sn.Get(appliedKey)) }

// Put has a batch lead to this position. It is for an engine that is filled with a state from elsewhere; a
// State does it for each of its batches.
func (a Applied) Put(b *engine.Batch) error {
	conf, err := proto.Marshal(a.Conf)
	if err != nil {
		return fmt.Errorf("state: encode the configuration at index %d: %w", a.Index, err)
	}
	b.Put(appliedKey, a.encode(conf))
	return nil
}

func readApplied(b []byte, err error) (Applied, error) {
	if errors.Is(err, engine.ErrNotFound) {
		return Applied{Conf: &raftpb.ConfState{}}, nil
	}
	if err != nil {
		return Applied{}, fmt.Errorf("state: read the applied index: %w", err)
	}
	return decodeApplied(b)
}
