package rpc

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// TestDial: a connection within the process passes the same checks, and ends with the server.
func TestDial(t *testing.T) {
	m := &member{}
	cfg, _, _ := config(m)
	s, err := New(cfg)
	require.NoError(t, err)
	conn, err := s.Dial()
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	health := healthpb.NewHealthClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err = health.Check(ctx, &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	m.learner.Store(true)
	_, err = health.Check(ctx, &healthpb.HealthCheckRequest{})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.NoError(t, s.Shutdown(ctx))
	_, err = health.Check(ctx, &healthpb.HealthCheckRequest{})
	require.Equal(t, codes.Unavailable, status.Code(err))
}
