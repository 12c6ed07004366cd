package etcdapi

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"
)

// Field numbers of the answers that are encoded by hand, from etcd's rpc.proto.
const (
	fieldHeader = 1

	fieldClusterID = 1
	fieldMemberID  = 2
	fieldRevision  = 3
	fieldRaftTerm  = 4

	fieldRangeKVs   = 2
	fieldRangeMore  = 3
	fieldRangeCount = 4

	fieldPutPrev = 2

	fieldDeleted    = 2
	fieldDeletePrev = 3

	fieldTxnSucceeded = 2
	fieldTxnResponses = 3

	fieldOpRange  = 1
	fieldOpPut    = 2
	fieldOpDelete = 3
	fieldOpTxn    = 4

	fieldWatchID       = 2
	fieldWatchCreated  = 3
	fieldWatchCanceled = 4
	fieldWatchCompact  = 5
	fieldWatchReason   = 6
	fieldWatchFragment = 7
	fieldWatchEvents   = 11

	fieldEventType = 1
	fieldEventKV   = 2
	fieldEventPrev = 3

	fieldStreamRange = 1
)

// encoded is an answer that is already in its final form. It is what the transport sends.
type encoded []byte

// Size returns the number of bytes.
func (e encoded) Size() int { return len(e) }

// AppendTo appends the answer to b.
func (e encoded) AppendTo(b []byte) []byte { return append(b, e...) }

func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendBool(b []byte, field protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, field, 1)
}

// appendMessage appends an embedded message, which is there even when it is empty.
func appendMessage(b []byte, field protowire.Number, m []byte) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, m)
}

// messageSize is what appendMessage appends for a field number below 16.
func messageSize(n int) int { return 1 + protowire.SizeBytes(n) }

func uintSize(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// appendHeader appends a response header. Inside transactions who is nil and only the revision is given.
func appendHeader(b []byte, who *Header, revision int64) []byte {
	var h Header
	if who != nil {
		h = *who
	}
	b = protowire.AppendTag(b, fieldHeader, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(uintSize(h.Cluster)+uintSize(h.Member)+uintSize(uint64(revision))+uintSize(h.Term)))
	b = appendUint(b, fieldClusterID, h.Cluster)
	b = appendUint(b, fieldMemberID, h.Member)
	b = appendUint(b, fieldRevision, uint64(revision))
	return appendUint(b, fieldRaftTerm, h.Term)
}

// headerBytes is more than any header takes: four fields of at most 11 bytes, tag and length.
const headerBytes = 48

func appendKVs(b []byte, field protowire.Number, kvs [][]byte) []byte {
	for _, kv := range kvs {
		b = appendMessage(b, field, kv)
	}
	return b
}

func kvsSize(kvs [][]byte) (n int) {
	for _, kv := range kvs {
		n += messageSize(len(kv))
	}
	return n
}

// headerSize is what appendHeader appends.
func headerSize(who *Header, revision int64) int {
	n := uintSize(uint64(revision))
	if who != nil {
		n += uintSize(who.Cluster) + uintSize(who.Member) + uintSize(who.Term)
	}
	return messageSize(n)
}

func boolSize(v bool) int {
	if v {
		return 2
	}
	return 0
}

func encodeRange(who *Header, res *mvcc.RangeResult) encoded {
	return appendRange(make([]byte, 0, rangeSize(who, res)), who, res)
}

func rangeSize(who *Header, res *mvcc.RangeResult) int {
	return headerSize(who, res.Revision) + kvsSize(res.KVs) + boolSize(res.More) + uintSize(uint64(res.Count))
}

func appendRange(b []byte, who *Header, res *mvcc.RangeResult) []byte {
	b = appendHeader(b, who, res.Revision)
	b = appendKVs(b, fieldRangeKVs, res.KVs)
	b = appendBool(b, fieldRangeMore, res.More)
	return appendUint(b, fieldRangeCount, uint64(res.Count))
}

func encodePut(who *Header, revision int64, res *state.PutResponse) encoded {
	return appendPut(make([]byte, 0, putSize(who, revision, res)), who, revision, res)
}

func putSize(who *Header, revision int64, res *state.PutResponse) int {
	n := headerSize(who, revision)
	if res.Prev != nil {
		n += messageSize(len(res.Prev))
	}
	return n
}

func appendPut(b []byte, who *Header, revision int64, res *state.PutResponse) []byte {
	b = appendHeader(b, who, revision)
	if res.Prev != nil {
		b = appendMessage(b, fieldPutPrev, res.Prev)
	}
	return b
}

func encodeDelete(who *Header, revision int64, res *state.DeleteResponse) encoded {
	return appendDelete(make([]byte, 0, deleteSize(who, revision, res)), who, revision, res)
}

func deleteSize(who *Header, revision int64, res *state.DeleteResponse) int {
	return headerSize(who, revision) + uintSize(uint64(res.Deleted)) + kvsSize(res.Prev)
}

func appendDelete(b []byte, who *Header, revision int64, res *state.DeleteResponse) []byte {
	b = appendHeader(b, who, revision)
	b = appendUint(b, fieldDeleted, uint64(res.Deleted))
	return appendKVs(b, fieldDeletePrev, res.Prev)
}

// encodeTxn encodes the answer to a transaction in one buffer, however deep it is nested: what its ranges
// found may be large and is copied once.
func encodeTxn(who *Header, revision int64, res *state.TxnResponse) encoded {
	return appendTxn(make([]byte, 0, txnSize(who, revision, res)), who, revision, res)
}

func txnSize(who *Header, revision int64, res *state.TxnResponse) int {
	n := headerSize(who, revision) + boolSize(res.Succeeded)
	for i := range res.Ops {
		_, inner := opSize(&res.Ops[i])
		n += messageSize(inner)
	}
	return n
}

func appendTxn(b []byte, who *Header, revision int64, res *state.TxnResponse) []byte {
	b = appendHeader(b, who, revision)
	b = appendBool(b, fieldTxnSucceeded, res.Succeeded)
	for i := range res.Ops {
		b = appendOp(b, &res.Ops[i])
	}
	return b
}

// opSize returns the size of the answer to one operation, without and with the wrapping that says which
// kind it is; both are 0 for one without content.
func opSize(op *state.OpResponse) (bare, wrapped int) {
	switch {
	case op.Range != nil:
		bare = rangeSize(nil, op.Range)
	case op.Put != nil:
		bare = putSize(nil, op.Revision, op.Put)
	case op.Delete != nil:
		bare = deleteSize(nil, op.Revision, op.Delete)
	case op.Txn != nil:
		bare = txnSize(nil, 0, op.Txn)
	default:
		return 0, 0
	}
	return bare, messageSize(bare)
}

func appendOp(b []byte, op *state.OpResponse) []byte {
	bare, wrapped := opSize(op)
	open := func(field protowire.Number, size int) {
		b = protowire.AppendTag(b, field, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(size))
	}
	open(fieldTxnResponses, wrapped)
	switch {
	case op.Range != nil:
		open(fieldOpRange, bare)
		return appendRange(b, nil, op.Range)
	case op.Put != nil:
		open(fieldOpPut, bare)
		return appendPut(b, nil, op.Revision, op.Put)
	case op.Delete != nil:
		open(fieldOpDelete, bare)
		return appendDelete(b, nil, op.Revision, op.Delete)
	case op.Txn != nil:
		open(fieldOpTxn, bare)
		return appendTxn(b, nil, 0, op.Txn)
	}
	return b
}

// eventSize is the size of an event within a watch response, without tag and length.
func eventSize(e *watch.Event, prev bool) int {
	n := messageSize(len(e.KV))
	if e.Delete {
		n += 2
	}
	if prev && e.Prev != nil {
		n += messageSize(len(e.Prev))
	}
	return n
}

func appendEvent(b []byte, e *watch.Event, prev bool) []byte {
	b = protowire.AppendTag(b, fieldWatchEvents, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(eventSize(e, prev)))
	b = appendBool(b, fieldEventType, e.Delete)
	b = appendMessage(b, fieldEventKV, e.KV)
	if prev && e.Prev != nil {
		b = appendMessage(b, fieldEventPrev, e.Prev)
	}
	return b
}

// watchHead is the size of a watch response without its events.
func watchHead(r *watch.Response) int { return headerBytes + 40 + len(r.Reason) }

func eventsSize(events []watch.Event, prev bool) (n int) {
	for i := range events {
		n += messageSize(eventSize(&events[i], prev))
	}
	return n
}

func encodeWatch(who *Header, r *watch.Response, events []watch.Event, fragment bool) encoded {
	b := make([]byte, 0, watchHead(r)+eventsSize(events, r.PrevKV))
	b = appendHeader(b, who, r.Revision)
	b = appendUint(b, fieldWatchID, uint64(r.WatchID))
	b = appendBool(b, fieldWatchCreated, r.Created)
	b = appendBool(b, fieldWatchCanceled, r.Canceled)
	b = appendUint(b, fieldWatchCompact, uint64(r.CompactRevision))
	if r.Reason != "" {
		b = protowire.AppendTag(b, fieldWatchReason, protowire.BytesType)
		b = protowire.AppendString(b, r.Reason)
	}
	b = appendBool(b, fieldWatchFragment, fragment)
	for i := range events {
		b = appendEvent(b, &events[i], r.PrevKV)
	}
	return b
}
