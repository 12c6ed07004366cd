package compat

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// rawCodec sends bytes as they are and keeps the answer's bytes.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }

func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// sendRaw makes a call whose request message is the given bytes.
func (r *Recorder) sendRaw(path, what string, request []byte, resp proto.Message) {
	ctx, cancel := context.WithTimeout(r.ctx, answerDeadline)
	defer cancel()
	r.notef("> %s, %s: %x", path, what, request)
	var answer []byte
	if err := r.conn.Invoke(ctx, path, request, &answer, grpc.ForceCodec(rawCodec{})); err != nil {
		r.notef("! %s", renderError(err))
		return
	}
	if err := proto.Unmarshal(answer, resp); err != nil {
		r.notef("! the answer is no %T: %v", resp, err)
		return
	}
	r.notef("< %s", r.text.render(resp))
}

// wireForms are encodings that a protobuf decoder must take, or refuse, whatever wrote them. Field 1 is the key and
// field 2 a byte string in every request they are sent as, fields 3 and 5 are numbers.
func wireForms() map[string][]byte {
	key := func(b []byte, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, 1, protowire.BytesType), s)
	}
	second := func(b []byte, s string) []byte {
		return protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), s)
	}
	number := func(b []byte, field protowire.Number, n uint64) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), n)
	}
	canonical := second(key(nil, "k"), "v")
	return map[string][]byte{
		"canonical":                 canonical,
		"empty":                     {},
		"out of order":              key(second(nil, "v"), "k"),
		"key twice":                 second(key(key(nil, "x"), "k"), "v"),
		"explicit zero":             number(canonical, 3, 0),
		"long varint length":        append([]byte{0x0a, 0x81, 0x00, 'k'}, second(nil, "v")...),
		"long varint tag":           append([]byte{0x8a, 0x00, 0x01, 'k'}, second(nil, "v")...),
		"unknown varint":            number(canonical, 1000, 7),
		"unknown bytes":             protowire.AppendString(protowire.AppendTag(canonical, 1001, protowire.BytesType), "x"),
		"unknown fixed":             protowire.AppendFixed64(protowire.AppendTag(canonical, 1002, protowire.Fixed64Type), 1),
		"unknown group":             append(protowire.AppendTag(canonical, 1003, protowire.StartGroupType), protowire.AppendTag(nil, 1003, protowire.EndGroupType)...),
		"open group":                protowire.AppendTag(canonical, 1003, protowire.StartGroupType),
		"end of no group":           protowire.AppendTag(canonical, 1003, protowire.EndGroupType),
		"key as a number":           number(second(nil, "v"), 1, 5),
		"number as bytes":           protowire.AppendString(protowire.AppendTag(canonical, 3, protowire.BytesType), "x"),
		"bool of 2":                 number(canonical, 5, 2),
		"bool of 10 bytes":          number(canonical, 5, 1<<63),
		"varint of 10 bytes":        number(canonical, 3, 1<<64-1),
		"varint too long":           append(protowire.AppendTag(canonical, 3, protowire.VarintType), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02),
		"enum beyond int32":         number(canonical, 5, 1<<40+1),
		"truncated tag":             append(canonical, 0x80),
		"truncated varint":          append(protowire.AppendTag(canonical, 3, protowire.VarintType), 0x80),
		"length beyond the end":     {0x0a, 0x05, 'k'},
		"huge length":               append([]byte{0x0a}, protowire.AppendVarint(nil, 1<<62)...),
		"field number zero":         append(canonical, 0x00, 0x01),
		"wire type 6":               append(canonical, 0x0e),
		"not UTF-8 is fine in keys": second(key(nil, "\xff\xfe"), "\xff"),
	}
}

// TestWireForms sends what no generated client sends: the services must take and refuse the same encodings.
func TestWireForms(t *testing.T) {
	methods := []struct {
		path string
		resp func() proto.Message
	}{
		{pb.KV_Put_FullMethodName, func() proto.Message { return new(pb.PutResponse) }},
		{pb.KV_Range_FullMethodName, func() proto.Message { return new(pb.RangeResponse) }},
		{pb.KV_DeleteRange_FullMethodName, func() proto.Message { return new(pb.DeleteRangeResponse) }},
		{pb.KV_Txn_FullMethodName, func() proto.Message { return new(pb.TxnResponse) }},
		{pb.KV_Compact_FullMethodName, func() proto.Message { return new(pb.CompactionResponse) }},
	}
	compare(t, harness.Options{}, func(r *Recorder) {
		for _, name := range sortedNames(wireForms()) {
			for _, m := range methods {
				r.sendRaw(m.path, name, wireForms()[name], m.resp())
			}
			r.Do(get(all, all))
		}
		// The same within a transaction's operation.
		for _, name := range sortedNames(wireForms()) {
			operation := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), wireForms()[name])
			request := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), operation)
			r.sendRaw(pb.KV_Txn_FullMethodName, fmt.Sprintf("put: %s", name), request, new(pb.TxnResponse))
			r.Do(get(all, all))
		}
	})
}

func sortedNames(forms map[string][]byte) []string { return slices.Sorted(maps.Keys(forms)) }
