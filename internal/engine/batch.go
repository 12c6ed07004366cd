package engine

// OpKind says what an Op does.
type OpKind uint8

// The kinds of operations in a batch.
const (
	OpPut OpKind = iota
	OpDelete
	OpDeleteRange
)

// Op is one operation of a batch. For OpDeleteRange the range is [Key, Value).
type Op struct {
	Kind  OpKind
	Key   []byte
	Value []byte
}

// opOverhead is what an operation costs besides its bytes: two slice headers and the kind. It keeps a
// batch of many empty values from counting as nothing.
const opOverhead = 56

// Batch is an ordered list of operations that take effect together. Later operations win over earlier
// ones on the same key. The zero value is an empty batch. A Batch keeps the slices it is given.
type Batch struct {
	ops   []Op
	bytes int
}

// Put stores value under key. The key must not be empty: Commit refuses the whole batch otherwise.
func (b *Batch) Put(key, value []byte) { b.add(Op{OpPut, key, value}) }

// Delete removes key. Removing a key that is not there is no error.
func (b *Batch) Delete(key []byte) { b.add(Op{OpDelete, key, nil}) }

// DeleteRange removes every key in [lo, hi). A range that is empty or upside down, hi nil included,
// removes nothing: unlike in Scan there is no range without an upper limit.
func (b *Batch) DeleteRange(lo, hi []byte) { b.add(Op{OpDeleteRange, lo, hi}) }

func (b *Batch) add(op Op) {
	b.ops = append(b.ops, op)
	b.bytes += len(op.Key) + len(op.Value) + opOverhead
}

// Ops returns the operations in order. The slice belongs to the batch.
func (b *Batch) Ops() []Op { return b.ops }

// Len returns the number of operations.
func (b *Batch) Len() int { return len(b.ops) }

// Bytes returns the memory that the operations refer to, in bytes.
func (b *Batch) Bytes() int { return b.bytes }

// maxKeptOps bounds the slice a reused batch holds on to: one turn of many thousand operations must not
// pin its peak for ever.
const maxKeptOps = 16384

// Reset empties the batch for reuse.
func (b *Batch) Reset() {
	clear(b.ops)
	b.ops = b.ops[:0]
	if cap(b.ops) > maxKeptOps {
		b.ops = nil
	}
	b.bytes = 0
}
