package etcdapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/dolmen-io/dolmen/internal/consensus"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// copies is a Backup of given bytes.
type copies struct {
	data         []byte
	claim        int // the size that is told, if not the data's
	err, readErr error
	closed       chan struct{} // gets a value for each snapshot that was closed
}

func (c *copies) Snapshot(context.Context) (*Snapshot, error) {
	if c.err != nil {
		return nil, c.err
	}
	return &Snapshot{
		ReadCloser: &copied{Reader: bytes.NewReader(c.data), err: c.readErr, closed: c.closed},
		Size:       int64(max(len(c.data), c.claim)), Version: "3.7.0",
	}, nil
}

func (c *copies) Hash(context.Context) (sum uint32, revision int64, err error) { return 77, 5, c.err }

type copied struct {
	io.Reader
	err    error
	closed chan struct{}
}

func (c *copied) Close() error {
	c.closed <- struct{}{}
	return c.err
}

func receive(t *testing.T, f *fixture) (all []*pb.SnapshotResponse, err error) {
	t.Helper()
	s, err := pb.NewMaintenanceClient(f.conn).Snapshot(f.ctx, &pb.SnapshotRequest{})
	require.NoError(t, err)
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, r)
	}
}

func TestSnapshot(t *testing.T) {
	f := newFixture(t)
	for _, size := range []int{1, 4096, snapshotBlob, snapshotBlob + 1, 5*snapshotBlob + 512} {
		data := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
		f.copies.data, f.copies.closed = data, make(chan struct{}, 1)
		got, err := receive(t, f)
		require.NoError(t, err)
		<-f.copies.closed
		sum := sha256.Sum256(data)
		last := got[len(got)-1]
		requireEqual(t, &pb.SnapshotResponse{Blob: sum[:], Version: "3.7.0"}, last)
		var all []byte
		for _, r := range got[:len(got)-1] {
			require.Nil(t, r.GetHeader())
			require.LessOrEqual(t, len(r.GetBlob()), snapshotBlob)
			require.Equal(t, "3.7.0", r.GetVersion())
			all = append(all, r.GetBlob()...)
			require.Equal(t, uint64(size-len(all)), r.GetRemainingBytes())
		}
		require.Equal(t, data, all)
	}
}

func TestSnapshotFails(t *testing.T) {
	f := newFixture(t)
	f.copies.data, f.copies.closed = []byte("abc"), make(chan struct{}, 1)
	f.copies.claim = 4
	_, err := receive(t, f)
	require.ErrorContains(t, err, "read the snapshot")
	<-f.copies.closed

	f.copies.claim, f.copies.readErr = 0, errors.New("cannot remove")
	_, err = receive(t, f)
	require.ErrorContains(t, err, "cannot remove")
	<-f.copies.closed

	f.copies.err = consensus.ErrStopped
	_, err = receive(t, f)
	require.Equal(t, rpctypes.ErrGRPCStopped.Error(), fmt.Sprint(err))
}

// TestSnapshotClientLeaves: what was made for a client is given back when the client is gone.
func TestSnapshotClientLeaves(t *testing.T) {
	f := newFixture(t)
	f.copies.data, f.copies.closed = make([]byte, 64<<20), make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(f.ctx)
	s, err := pb.NewMaintenanceClient(f.conn).Snapshot(ctx, &pb.SnapshotRequest{})
	require.NoError(t, err)
	_, err = s.Recv()
	require.NoError(t, err)
	cancel()
	<-f.copies.closed
}

func TestHash(t *testing.T) {
	f := newFixture(t)
	got, err := pb.NewMaintenanceClient(f.conn).Hash(f.ctx, &pb.HashRequest{})
	require.NoError(t, err)
	requireEqual(t, &pb.HashResponse{Header: f.header(5), Hash: 77}, got)
	f.copies.err = consensus.ErrStopped
	_, err = pb.NewMaintenanceClient(f.conn).Hash(f.ctx, &pb.HashRequest{})
	require.Equal(t, rpctypes.ErrGRPCStopped.Error(), fmt.Sprint(err))
}
