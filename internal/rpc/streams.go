package rpc

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// leaderlessTicks is how many election timeouts without a leader end a stream that requires one: many
// reconnecting streams cost more than a short wait.
const leaderlessTicks = 3

// stream is a stream that the server may end. Its handler must return when its context is done, and not
// only wait in RecvMsg.
type stream struct {
	grpc.ServerStream
	ctx         context.Context
	cancel      context.CancelCauseFunc
	needsLeader bool
	endless     bool
}

// Context replaces the context of the stream by one that the server can end.
func (s *stream) Context() context.Context { return s.ctx }

// reason is why the server ended the stream, nil if it did not.
func (s *stream) reason() error {
	cause := context.Cause(s.ctx)
	if errors.Is(cause, rpctypes.ErrGRPCNoLeader) || errors.Is(cause, rpctypes.ErrGRPCStopped) {
		return cause
	}
	return nil
}

// streams is the open streams that the server may end. It is no larger than the streams that grpc-go holds.
type streams struct {
	mu struct {
		sync.Mutex
		open    map[*stream]struct{}
		stopped error // why no endless stream is opened any more
	}
}

func newStreams() *streams {
	s := &streams{}
	s.mu.open = make(map[*stream]struct{})
	return s
}

func (s *streams) open(ss grpc.ServerStream, needsLeader, endless bool) (*stream, error) {
	ctx, cancel := context.WithCancelCause(ss.Context())
	st := &stream{ServerStream: ss, ctx: ctx, cancel: cancel, needsLeader: needsLeader, endless: endless}
	s.mu.Lock()
	defer s.mu.Unlock()
	if endless && s.mu.stopped != nil {
		cancel(nil)
		return nil, s.mu.stopped
	}
	s.mu.open[st] = struct{}{}
	return st, nil
}

func (s *streams) close(st *stream) {
	s.mu.Lock()
	delete(s.mu.open, st)
	s.mu.Unlock()
	st.cancel(nil)
}

// stop ends the endless streams, now and from now on.
func (s *streams) stop(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.stopped = reason
	for st := range s.mu.open {
		if st.endless {
			st.cancel(reason)
		}
	}
}

// endLeaderless ends the streams that require a leader.
func (s *streams) endLeaderless() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.mu.open {
		if st.needsLeader {
			st.cancel(rpctypes.ErrGRPCNoLeader)
		}
	}
}

// watchLeader ends the streams that require a leader when none was there for too long. It runs until the
// server stops.
func (s *Server) watchLeader() {
	ticker := time.NewTicker(s.cfg.ElectionTimeout)
	defer ticker.Stop()
	leaderless := 0
	for {
		select {
		case <-s.stopping:
			return
		case <-ticker.C:
		}
		if s.cfg.Membership.HasLeader() {
			leaderless = 0
			continue
		}
		if leaderless++; leaderless >= leaderlessTicks {
			s.streams.endLeaderless()
		}
	}
}
