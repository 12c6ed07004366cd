package etcdapi

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"
)

// Errors of a Member.
var (
	// ErrTimeout says that the cluster did not decide in time.
	ErrTimeout = errors.New("etcdapi: request timed out")
	// ErrTimeoutLeaderFail is an ErrTimeout of a request that may have gone to a leader that was lost.
	ErrTimeoutLeaderFail = fmt.Errorf("%w, possibly due to previous leader failure", ErrTimeout)
	// ErrTimeoutConnectionLost is an ErrTimeout of a member that has lost others meanwhile.
	ErrTimeoutConnectionLost = fmt.Errorf("%w, possibly due to connection lost", ErrTimeout)
	// ErrTooLarge says that a request is larger than the log takes.
	ErrTooLarge = errors.New("etcdapi: request is too large")
	// ErrCanceled says that the client gave up on a write, which may still happen.
	ErrCanceled = errors.New("etcdapi: request canceled")
	// ErrLeaseGone says that there is no such lease.
	ErrLeaseGone = errors.New("etcdapi: no such lease")
)

// Errors of an Operator.
var (
	// ErrNoLeader says that nobody leads the cluster.
	ErrNoLeader = errors.New("etcdapi: no leader")
	// ErrApplyTimeout says that this member did not apply in time what it has committed.
	ErrApplyTimeout = errors.New("etcdapi: applying takes too long")
	// ErrTransferTimeout says that the client did not wait for another member to lead.
	ErrTransferTimeout = errors.New("etcdapi: leader transfer took too long")
)

// statusBusy has no code, as in etcd, whose table names the client's error here.
var statusBusy = status.Error(codes.Unknown, rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests))

// statuses maps what packages report to what clients receive. Clients tell errors apart by their texts.
var statuses = []struct{ err, status error }{
	{mvcc.ErrCompacted, rpctypes.ErrGRPCCompacted},
	{mvcc.ErrFuture, rpctypes.ErrGRPCFutureRev},
	{state.ErrKeyNotFound, rpctypes.ErrGRPCKeyNotFound},
	{state.ErrNoSpace, rpctypes.ErrGRPCNoSpace},
	{state.ErrCorrupt, rpctypes.ErrGRPCCorrupt},
	{state.ErrUnknownAction, status.Error(codes.InvalidArgument, "etcdserver: unknown alarm action")},
	// etcd has none like it.
	{state.ErrReplaced, status.Error(codes.Unavailable, "etcdserver: the data was replaced by that of another member meanwhile, try again")},
	{lease.ErrNotFound, rpctypes.ErrGRPCLeaseNotFound},
	{lease.ErrExists, rpctypes.ErrGRPCLeaseExist},
	{lease.ErrTTLTooLarge, rpctypes.ErrGRPCLeaseTTLTooLarge},
	// etcd has no status for this one: clients see its text with an unknown code.
	{lease.ErrNotPrimary, status.Error(codes.Unknown, "not a primary lessor")},
	// As etcd's, also for adding one again.
	{membership.ErrRemoved, rpctypes.ErrGRPCMemberNotFound},
	{membership.ErrExists, rpctypes.ErrGRPCMemberExist},
	{membership.ErrNotFound, rpctypes.ErrGRPCMemberNotFound},
	{membership.ErrPeerURLExists, rpctypes.ErrGRPCPeerURLExist},
	{membership.ErrNotLearner, rpctypes.ErrGRPCMemberNotLearner},
	{membership.ErrTooManyLearners, rpctypes.ErrGRPCTooManyLearners},
	{membership.ErrUnhealthy, rpctypes.ErrGRPCUnhealthy},
	{membership.ErrNotEnoughStarted, notEnoughStarted},
	{membership.ErrLastVoter, notEnoughStarted},
	{auth.ErrNotEnabled, rpctypes.ErrGRPCAuthNotEnabled},
	{auth.ErrRootUserNotFound, rpctypes.ErrGRPCRootUserNotExist},
	{auth.ErrRootRoleNotFound, rpctypes.ErrGRPCRootRoleNotExist},
	{auth.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
	{auth.ErrUserExists, rpctypes.ErrGRPCUserAlreadyExist},
	{auth.ErrUserNotFound, rpctypes.ErrGRPCUserNotFound},
	{auth.ErrRoleEmpty, rpctypes.ErrGRPCRoleEmpty},
	{auth.ErrRoleExists, rpctypes.ErrGRPCRoleAlreadyExist},
	{auth.ErrRoleNotFound, rpctypes.ErrGRPCRoleNotFound},
	{auth.ErrRoleNotGranted, rpctypes.ErrGRPCRoleNotGranted},
	{auth.ErrPermissionNotGiven, rpctypes.ErrGRPCPermissionNotGiven},
	{auth.ErrPermissionNotGranted, rpctypes.ErrGRPCPermissionNotGranted},
	{auth.ErrInvalidManagement, rpctypes.ErrGRPCInvalidAuthMgmt},
	{auth.ErrPermissionDenied, rpctypes.ErrGRPCPermissionDenied},
	{auth.ErrOldRevision, rpctypes.ErrGRPCAuthOldRevision},
	{auth.ErrFailed, rpctypes.ErrGRPCAuthFailed},
	{auth.ErrInvalidToken, rpctypes.ErrGRPCInvalidAuthToken},
	{auth.ErrTooManyChecks, statusBusy},
	{consensus.ErrBusy, statusBusy},
	{consensus.ErrLeaderChanged, rpctypes.ErrGRPCLeaderChanged},
	{consensus.ErrStopped, rpctypes.ErrGRPCStopped},
	{ErrTimeoutLeaderFail, rpctypes.ErrGRPCTimeoutDueToLeaderFail}, // before ErrTimeout, which they are too
	{ErrTimeoutConnectionLost, rpctypes.ErrGRPCTimeoutDueToConnectionLost},
	{ErrTimeout, rpctypes.ErrGRPCTimeout},
	{ErrTooLarge, rpctypes.ErrGRPCRequestTooLarge},
	{ErrCanceled, rpctypes.ErrGRPCCanceled},
	{ErrNoLeader, rpctypes.ErrGRPCNoLeader},
	{ErrApplyTimeout, rpctypes.ErrGRPCTimeoutWaitAppliedIndex},
	{ErrTransferTimeout, status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")},
}

// Etcd has no codes for these either.
var (
	notEnoughStarted = status.Error(codes.Unknown, rpctypes.ErrorDesc(rpctypes.ErrGRPCMemberNotEnoughStarted))
	unknownMethod    = status.Error(codes.Unknown, "etcdserver: unknown method")
)

// toStatus returns the error as a client receives it.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	for _, s := range statuses {
		if errors.Is(err, s.err) {
			return s.status
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}

// Message returns the text by which clients know an error.
func Message(err error) string { return status.Convert(toStatus(err)).Message() }
