package mvcc

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of mvccpb.KeyValue.
const (
	fieldKey     = 1
	fieldCreate  = 2
	fieldMod     = 3
	fieldVersion = 4
	fieldValue   = 5
	fieldLease   = 6
)

// KeyValue is a decoded mvccpb.KeyValue. Key and Value refer to the encoded bytes.
type KeyValue struct {
	Key, Value                []byte
	Create, Mod, Ver, LeaseID int64
}

var errBadKeyValue = errors.New("mvcc: not an encoded KeyValue")

func sizeBytesField(n int) int {
	if n == 0 {
		return 0
	}
	return 1 + protowire.SizeBytes(n)
}

func sizeIntField(v int64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(uint64(v))
}

func appendBytesField(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, v)
}

func appendIntField(b []byte, field protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	b = protowire.AppendTag(b, field, protowire.VarintType)
	return protowire.AppendVarint(b, uint64(v))
}

// Encode returns the protobuf encoding of kv in one allocation of the exact size, the same bytes that
// protobuf's deterministic marshalling gives. They are what HashKV hashes on every member.
func (kv *KeyValue) Encode() []byte {
	n := sizeBytesField(len(kv.Key)) + sizeIntField(kv.Create) + sizeIntField(kv.Mod) +
		sizeIntField(kv.Ver) + sizeBytesField(len(kv.Value)) + sizeIntField(kv.LeaseID)
	b := make([]byte, 0, n)
	b = appendBytesField(b, fieldKey, kv.Key)
	b = appendIntField(b, fieldCreate, kv.Create)
	b = appendIntField(b, fieldMod, kv.Mod)
	b = appendIntField(b, fieldVersion, kv.Ver)
	b = appendBytesField(b, fieldValue, kv.Value)
	return appendIntField(b, fieldLease, kv.LeaseID)
}

// DecodeKeyValue reads an encoded mvccpb.KeyValue. Unknown fields are skipped; anything that is not
// protobuf is an error. Nothing is copied.
func DecodeKeyValue(b []byte) (kv KeyValue, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return KeyValue{}, errBadKeyValue
		}
		b = b[n:]
		switch {
		case typ == protowire.BytesType && (num == fieldKey || num == fieldValue):
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return KeyValue{}, errBadKeyValue
			}
			if num == fieldKey {
				kv.Key = v
			} else {
				kv.Value = v
			}
			b = b[n:]
		case typ == protowire.VarintType && num >= fieldCreate && num <= fieldLease && num != fieldValue:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return KeyValue{}, errBadKeyValue
			}
			*kv.intField(num) = int64(v)
			b = b[n:]
		default:
			n := protowire.ConsumeFieldValue(num, typ, b)
			if n < 0 {
				return KeyValue{}, errBadKeyValue
			}
			b = b[n:]
		}
	}
	return kv, nil
}

func (kv *KeyValue) intField(num protowire.Number) *int64 {
	switch num {
	case fieldCreate:
		return &kv.Create
	case fieldMod:
		return &kv.Mod
	case fieldVersion:
		return &kv.Ver
	default:
		return &kv.LeaseID
	}
}
