package rpc

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Raw is a message that encodes itself: the answers of hot methods, which share bytes with the store.
type Raw interface {
	// Size returns the number of bytes that AppendTo appends.
	Size() int
	// AppendTo appends the message's protobuf encoding to b, which has room for Size bytes, and returns it.
	AppendTo(b []byte) []byte
}

// codec is gRPC's protobuf codec, with Raw messages, that counts the bytes of messages.
type codec struct {
	proto          encoding.CodecV2
	sent, received prometheus.Counter
}

func newCodec(sent, received prometheus.Counter) *codec {
	return &codec{proto: encoding.GetCodecV2(proto.Name), sent: sent, received: received}
}

func (c *codec) Name() string { return proto.Name }

func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	data, err := c.encode(v)
	if err == nil {
		c.sent.Add(float64(data.Len()))
	}
	return data, err
}

func (c *codec) encode(v any) (mem.BufferSlice, error) {
	raw, ok := v.(Raw)
	if !ok {
		return c.proto.Marshal(v)
	}
	size := raw.Size()
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if b := raw.AppendTo((*buf)[:0]); len(b) != size {
		pool.Put(buf)
		return nil, fmt.Errorf("rpc: %T said it has %d bytes and has %d", v, size, len(b))
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	c.received.Add(float64(data.Len()))
	return c.proto.Unmarshal(data, v)
}
