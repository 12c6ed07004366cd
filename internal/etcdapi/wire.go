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

func encodeRange(who *Header, res *mvcc.RangeResult) encoded {
	b := make([]byte, 0, headerBytes+kvsSize(res.KVs)+16)
	b = appendHeader(b, who, res.Revision)
	b = appendKVs(b, fieldRangeKVs, res.KVs)
	b = appendBool(b, fieldRangeMore, res.More)
	return appendUint(b, fieldRangeCount, uint64(res.Count))
}

func encodePut(who *Header, revision int64, res *state.PutResponse) encoded {
	b := make([]byte, 0, headerBytes+messageSize(len(res.Prev)))
	b = appendHeader(b, who, revision)
	if res.Prev != nil {
		b = appendMessage(b, fieldPutPrev, res.Prev)
	}
	return b
}

func encodeDelete(who *Header, revision int64, res *state.DeleteResponse) encoded {
	b := make([]byte, 0, headerBytes+kvsSize(res.Prev)+16)
	b = appendHeader(b, who, revision)
	b = appendUint(b, fieldDeleted, uint64(res.Deleted))
	return appendKVs(b, fieldDeletePrev, res.Prev)
}

func encodeTxn(who *Header, revision int64, res *state.TxnResponse) encoded {
	b := appendHeader(make([]byte, 0, headerBytes+64*len(res.Ops)), who, revision)
	b = appendBool(b, fieldTxnSucceeded, res.Succeeded)
	for i := range res.Ops {
		b = appendMessage(b, fieldTxnResponses, encodeOp(&res.Ops[i]))
	}
	return b
}

// encodeOp encodes the answer to one operation of a transaction; empty for one without content.
func encodeOp(op *state.OpResponse) []byte {
	var m []byte
	var field protowire.Number
	switch {
	case op.Range != nil:
		field, m = fieldOpRange, encodeRange(nil, op.Range)
	case op.Put != nil:
		field, m = fieldOpPut, encodePut(nil, op.Revision, op.Put)
	case op.Delete != nil:
		field, m = fieldOpDelete, encodeDelete(nil, op.Revision, op.Delete)
	case op.Txn != nil:
		field, m = fieldOpTxn, encodeTxn(nil, 0, op.Txn)
	default:
		return nil
	}
	return appendMessage(make([]byte, 0, messageSize(len(m))), field, m)
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
