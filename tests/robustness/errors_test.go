package robustness

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		err       error
		text      string
		retryable bool
	}{
		{context.DeadlineExceeded, "the client's deadline", true},
		{fmt.Errorf("get: %w", context.Canceled), "the client's end", true},
		{rpctypes.ErrTimeoutDueToLeaderFail, "Unavailable: etcdserver: request timed out, possibly due to previous leader failure", true},
		{rpctypes.ErrTooManyRequests, "ResourceExhausted: etcdserver: too many requests", true},
		{rpctypes.ErrNoSpace, "ResourceExhausted: etcdserver: mvcc: database space exceeded", false},
		{rpctypes.ErrCompacted, "OutOfRange: etcdserver: mvcc: required revision has been compacted", false},
		{status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing 127.0.0.1:1"`), "Unavailable: connection error", true},
		{status.Error(codes.Unknown, "raft proposal dropped"), "Unknown: raft proposal dropped", true},
		{status.Error(codes.Internal, "panic"), "Internal: panic", false},
		{errors.New("other"), "Unknown: other", false},
	} {
		text, retryable := describe(c.err)
		require.Equal(t, c.text, text)
		require.Equal(t, c.retryable, retryable, text)
	}
	j := newJournal()
	j.failed(rpctypes.ErrNoSpace)
	require.Len(t, j.mu.forbidden, 1)
	j.mayBeFull.Store(true)
	j.failed(rpctypes.ErrNoSpace)
	require.Len(t, j.mu.forbidden, 1)
	require.Equal(t, "2 x ResourceExhausted: etcdserver: mvcc: database space exceeded", j.errorCounts())
}
