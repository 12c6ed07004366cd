package rpc

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap/zapcore"
)

func TestRequestStats(t *testing.T) {
	for _, test := range []struct {
		slow  time.Duration
		level zapcore.Level
	}{{time.Hour, zapcore.DebugLevel}, {-1, zapcore.WarnLevel}} {
		f := startBoth(t, func(c *Config) { c.SlowRequest = test.slow })
		require.NoError(t, f.put(t.Context()))
		// The client may have its answer before the server has its log line.
		require.Eventually(t, func() bool { return f.logs.FilterMessage("request stats").Len() > 0 }, 10*time.Second, time.Millisecond)
		line := f.logs.FilterMessage("request stats").All()[0]
		require.Equal(t, test.level, line.Level)
		fields := line.ContextMap()
		require.Equal(t, "/etcdserverpb.KV/Range", fields["response type"])
		require.Contains(t, fields["remote"], "127.0.0.1:")
		require.Contains(t, fields["request content"], `key:"k"`)
		require.EqualValues(t, 3, fields["request size"])
		require.EqualValues(t, 3, fields["response count"])
		require.Len(t, fields, 9)
	}
}

func TestDescribe(t *testing.T) {
	put := &pb.PutRequest{Key: []byte("k"), Value: []byte("secret")}
	op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{op, op}, Failure: []*pb.RequestOp{op}}
	for name, test := range map[string]struct {
		req, resp any
		want      description
	}{
		"range": {&pb.RangeRequest{Key: []byte("k")}, &pb.RangeResponse{Count: 3}, description{0, 3, 3, 2, `key:"k"`}},
		"raw":   {&pb.RangeRequest{Key: []byte("k")}, raw{nil, 99}, description{0, 7, 3, 99, `key:"k"`}},
		// A failed call answers with a nil message, typed or not.
		"failed":  {&pb.RangeRequest{Key: []byte("k")}, (*pb.RangeResponse)(nil), description{0, 0, 3, 0, `key:"k"`}},
		"refused": {&pb.RangeRequest{Key: []byte("k")}, nil, description{0, 0, 3, 0, `key:"k"`}},
		"delete":  {&pb.DeleteRangeRequest{Key: []byte("k")}, &pb.DeleteRangeResponse{Deleted: 4}, description{0, 4, 3, 2, `key:"k"`}},
		"put":     {put, &pb.PutResponse{}, description{1, 0, 11, 0, `key:"k" value_size:6`}},
		"then": {txn, &pb.TxnResponse{Succeeded: true}, description{2, 0, 26, 2,
			`compare:<> success:<request_put:<key:"k" value_size:6 > request_put:<key:"k" value_size:6 >> failure:<request_put:<key:"k" value_size:6 >>`}},
		"else": {txn, &pb.TxnResponse{}, description{1, 0, 13, 0,
			`compare:<> success:<request_put:<key:"k" value_size:6 > request_put:<key:"k" value_size:6 >> failure:<request_put:<key:"k" value_size:6 >>`}},
		"other": {&pb.StatusRequest{}, &pb.StatusResponse{}, description{-1, -1, -1, -1, ""}},
	} {
		got := describe(test.req, test.resp)
		require.NotContains(t, got.content, "secret")
		if name == "then" || name == "else" || name == "put" {
			require.Contains(t, got.content, "value_size:6")
			got.content, test.want.content = "", ""
		}
		require.Equal(t, test.want, got, name)
	}
}
