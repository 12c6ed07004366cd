//go:build rocksdb

package rocksdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// opHeader is what an operation costs besides its bytes in the form that dolmen_write reads.
const opHeader = 9

// pack appends operations to b in the form that dolmen_write reads, so that a batch goes to C in one call and C
// needs no pointers into it. A range that is empty or upside down is left out: RocksDB would refuse the batch.
func pack(b []byte, ops []engine.Op) ([]byte, error) {
	size := 0
	for _, op := range ops {
		size += opHeader + len(op.Key) + len(op.Value)
	}
	if cap(b) < size {
		b = make([]byte, 0, size)
	}
	for _, op := range ops {
		switch op.Kind {
		case engine.OpPut:
			if len(op.Key) == 0 {
				return nil, errors.New("put under an empty key")
			}
		case engine.OpDelete:
		case engine.OpDeleteRange:
			if bytes.Compare(op.Key, op.Value) >= 0 {
				continue
			}
		default:
			return nil, fmt.Errorf("unknown operation kind %d", op.Kind)
		}
		b = append(b, byte(op.Kind))
		b = binary.NativeEndian.AppendUint32(b, uint32(len(op.Key)))
		b = binary.NativeEndian.AppendUint32(b, uint32(len(op.Value)))
		b = append(append(b, op.Key...), op.Value...)
	}
	return b, nil
}
