package mvcc

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func (kv *KeyValue) proto() *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: kv.Value, CreateRevision: kv.Create, ModRevision: kv.Mod, Version: kv.Ver, Lease: kv.LeaseID,
	}
}

func TestEncodeIsProtobuf(t *testing.T) {
	for _, kv := range []KeyValue{
		{},
		{Key: []byte("k")},
		{Key: []byte("k"), Value: []byte("v"), Create: 5, Mod: 5, Ver: 1},
		{Key: make([]byte, 300), Value: make([]byte, 70000), Create: 1 << 40, Mod: 1 << 62, Ver: 127, LeaseID: -1},
	} {
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(kv.proto())
		require.NoError(t, err)
		got := kv.Encode()
		require.Equal(t, string(want), string(got))
		require.Equal(t, len(got), cap(got), "the allocation is not of the exact size")
	}
}

func FuzzDecodeKeyValue(f *testing.F) {
	f.Add((&KeyValue{Key: []byte("k"), Value: []byte("v"), Create: 5, Mod: 5, Ver: 1, LeaseID: -3}).Encode())
	f.Add([]byte{0xa, 5, 'x'})
	f.Fuzz(func(t *testing.T, b []byte) {
		kv, err := DecodeKeyValue(b)
		var want mvccpb.KeyValue
		if perr := proto.Unmarshal(b, &want); perr != nil {
			return // protobuf refuses more than we do, a misplaced group for example
		}
		require.NoError(t, err)
		require.True(t, proto.Equal(&mvccpb.KeyValue{
			Key: want.Key, Value: want.Value, CreateRevision: want.CreateRevision, ModRevision: want.ModRevision,
			Version: want.Version, Lease: want.Lease,
		}, kv.proto()))
	})
}

func TestParseEngineKey(t *testing.T) {
	for _, r := range []Revision{{1, 0}, {1 << 50, 1 << 40}} {
		for _, tombstone := range []bool{false, true} {
			got, gotTomb, err := ParseEngineKey(r.EngineKey(tombstone))
			require.NoError(t, err)
			require.Equal(t, r, got)
			require.Equal(t, tombstone, gotTomb)
		}
	}
	for name, k := range map[string][]byte{
		"short":     make([]byte, 16),
		"separator": make([]byte, 17),
		"mark":      append(Revision{1, 1}.EngineKey(false), 'x'),
		"negative":  append([]byte{0xff}, Revision{1, 1}.EngineKey(false)[1:]...),
	} {
		_, _, err := ParseEngineKey(k)
		require.Error(t, err, name)
	}
}
