package state

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine/memory"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestUnknownRequestIsFailure applies what only a newer version writes: to skip it would mean
// to serve another state than they do.
func TestUnknownRequestIsFailure(t *testing.T) {
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, eng.Close()) }()
	s, err := Open(eng, Config{MinTTL: 2, MaxLearners: 1})
	require.NoError(t, err)
	_, err = s.Apply([]Entry{{Index: 1, Term: 1, Request: &pb.InternalRaftRequest{
		ID: 7,
	}}})
	require.ErrorIs(t, err, ErrUnknownRequest)
}
