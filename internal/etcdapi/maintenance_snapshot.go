package etcdapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Backup makes copies and checksums of all that a member holds, in etcd's form.
type Backup interface {
	// Snapshot returns the data at one point as etcd's file, which the caller closes. It waits while too many
	// others are in use. Errors: the context's, consensus.ErrStopped, or why there is no file.
	Snapshot(ctx context.Context) (*Snapshot, error)
	// Hash returns etcd's checksum over all that such a file holds but its position in the log, and the
	// revision that it is of.
	Hash(ctx context.Context) (sum uint32, revision int64, err error)
}

// Snapshot is a file of etcd's.
type Snapshot struct {
	io.ReadCloser
	// Size is its size in bytes.
	Size int64
	// Version is that of its format.
	Version string
}

// snapshotBlob is how many bytes of a snapshot go into one message; etcd's figure.
const snapshotBlob = 32 << 10

// Snapshot implements pb.MaintenanceServer: the file, then its SHA-256, by which the client sees that all of it
// has come. The messages have no header.
func (s maintenance) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) (err error) {
	if err := s.authorizeAdmin(stream.Context()); err != nil {
		return toStatus(err)
	}
	snapshot, err := s.backup.Snapshot(stream.Context())
	if err != nil {
		return toStatus(err)
	}
	defer func() {
		if cerr := snapshot.Close(); err == nil {
			err = toStatus(cerr)
		}
	}()
	sum := sha256.New()
	for left := snapshot.Size; left > 0; {
		// A message must not be changed once it was handed over, so each has bytes of its own.
		blob := make([]byte, min(left, snapshotBlob))
		if _, err := io.ReadFull(snapshot, blob); err != nil {
			return toStatus(errors.Join(errors.New("read the snapshot"), err))
		}
		left -= int64(len(blob))
		_, _ = sum.Write(blob)
		if err := stream.Send(&pb.SnapshotResponse{RemainingBytes: uint64(left), Blob: blob, Version: snapshot.Version}); err != nil {
			return toStatus(err)
		}
	}
	return toStatus(stream.Send(&pb.SnapshotResponse{Blob: sum.Sum(nil), Version: snapshot.Version}))
}

// Hash implements pb.MaintenanceServer.
func (s maintenance) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	if err := s.authorizeAdmin(ctx); err != nil {
		return nil, toStatus(err)
	}
	sum, revision, err := s.backup.Hash(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.HashResponse{Header: s.header(revision), Hash: sum}, nil
}
