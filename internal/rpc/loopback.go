package rpc

import (
	"context"
	"fmt"
	"math"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// loopbackBuffer is what waits unread in each direction of a connection within the process; a socket's
// buffer is of that order.
const loopbackBuffer = 256 << 10

// Dial returns a connection of this process to the server, for what turns other requests into gRPC. It
// leads over memory, and what is asked through it passes all that other requests pass. Services must have
// been registered before. After Shutdown its requests fail; the caller closes it.
func (s *Server) Dial() (*grpc.ClientConn, error) {
	s.initialize()
	ln := bufconn.Listen(loopbackBuffer)
	conn, err := grpc.NewClient("passthrough:///loopback",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	)
	if err != nil {
		return nil, fmt.Errorf("rpc: connect the process to itself: %w", err)
	}
	go func() { // only Shutdown ends it
		if s.own != nil {
			_ = s.own.Serve(ln, nil)
		} else {
			_ = s.grpc.Serve(ln)
		}
	}()
	return conn, nil
}
