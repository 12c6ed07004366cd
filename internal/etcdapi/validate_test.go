package etcdapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/alarm"
	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func parse[M proto.Message](t testing.TB, m M, text string) M {
	require.NoError(t, prototext.Unmarshal([]byte(text), m), text)
	return m
}

// validate is what Txn checks before anything else.
func validate(r *pb.TxnRequest, budget int) error {
	if err := checkTxn(r, budget); err != nil {
		return err
	}
	for _, branch := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		if _, err := checkConflicts(branch); err != nil {
			return err
		}
	}
	return nil
}

func TestCheckRequests(t *testing.T) {
	require.NoError(t, checkRange(parse(t, &pb.RangeRequest{}, `key:"a" sort_order:DESCEND sort_target:VALUE`)))
	require.ErrorIs(t, checkRange(parse(t, &pb.RangeRequest{}, `range_end:"a"`)), rpctypes.ErrGRPCEmptyKey)
	require.ErrorIs(t, checkRange(parse(t, &pb.RangeRequest{}, `sort_order:9`)), rpctypes.ErrGRPCEmptyKey)
	require.ErrorIs(t, checkRange(parse(t, &pb.RangeRequest{}, `key:"a" sort_order:3`)), rpctypes.ErrGRPCInvalidSortOption)
	require.ErrorIs(t, checkRange(parse(t, &pb.RangeRequest{}, `key:"a" sort_target:-1`)), rpctypes.ErrGRPCInvalidSortOption)
	require.NoError(t, checkPut(parse(t, &pb.PutRequest{}, `key:"a" ignore_value:true ignore_lease:true`)))
	require.ErrorIs(t, checkPut(parse(t, &pb.PutRequest{}, `ignore_value:true value:"x"`)), rpctypes.ErrGRPCEmptyKey)
	require.ErrorIs(t, checkPut(parse(t, &pb.PutRequest{}, `key:"a" ignore_value:true value:"x" ignore_lease:true lease:1`)),
		rpctypes.ErrGRPCValueProvided)
	require.ErrorIs(t, checkPut(parse(t, &pb.PutRequest{}, `key:"a" value:"x" ignore_lease:true lease:1`)), rpctypes.ErrGRPCLeaseProvided)
	require.NoError(t, checkDelete(parse(t, &pb.DeleteRangeRequest{}, `key:"a"`)))
	require.ErrorIs(t, checkDelete(parse(t, &pb.DeleteRangeRequest{}, `range_end:"a"`)), rpctypes.ErrGRPCEmptyKey)
}

// Shapes of transactions; P, D and R stand for operations.
func expand(text string) string {
	for short, long := range map[string]string{"P(": "{request_put:{key:", "D(": "{request_delete_range:{key:", "R(": "{request_range:{key:"} {
		text = strings.ReplaceAll(text, short, long)
	}
	return strings.ReplaceAll(strings.ReplaceAll(text, "T(", "{request_txn:{"), ")", "}}")
}

func TestCheckTxn(t *testing.T) {
	for text, want := range map[string]error{
		``: nil,
		`success:P("a") success:P("b") failure:P("a")`: nil,
		`compare:{key:"a"} compare:{}`:                 rpctypes.ErrGRPCEmptyKey,
		`compare:{} success:{}`:                        rpctypes.ErrGRPCEmptyKey, // compares come first
		`success:{}`:                                   rpctypes.ErrGRPCKeyNotFound,
		`failure:{}`:                                   rpctypes.ErrGRPCKeyNotFound,
		`success:P("") `:                               rpctypes.ErrGRPCEmptyKey,
		`success:D("")`:                                rpctypes.ErrGRPCEmptyKey,
		`failure:R("a" sort_order:7)`:                  rpctypes.ErrGRPCInvalidSortOption,
		`success:T(failure:P("a" ignore_value:true value:"x"))`:                                                rpctypes.ErrGRPCValueProvided,
		`success:T(compare:{})`:                                                                                rpctypes.ErrGRPCEmptyKey,
		`success:R("a") success:R("a") success:R("a") success:R("a")`:                                          nil,
		`success:P("a") success:P("b") success:P("c") success:P("d") failure:P("e") failure:P("f")`:            nil,
		`success:P("a") success:P("b") success:P("c") success:P("d") success:P("e")`:                           rpctypes.ErrGRPCTooManyOps,
		`compare:{key:"a"} compare:{key:"a"} compare:{key:"a"} compare:{key:"a"} compare:{key:"a"} success:{}`: rpctypes.ErrGRPCTooManyOps,
		// What a level has at most is taken off what the level below may have.
		`success:T(success:P("a") success:P("b") success:P("c"))`:                                 nil,
		`success:T(success:P("a") success:P("b") success:P("c") success:P("d"))`:                  rpctypes.ErrGRPCTooManyOps,
		`compare:{key:"a"} compare:{key:"b"} success:T(success:P("a") success:P("b"))`:            nil,
		`compare:{key:"a"} compare:{key:"b"} success:T(success:P("a") success:P("b") success:{})`: rpctypes.ErrGRPCTooManyOps,
		`success:T(success:T(success:T(success:P("a"))))`:                                         nil,
		`success:T(success:T(success:T(success:T())))`:                                            nil,
		`success:T(success:T(success:T(success:T(success:P("a")))))`:                              rpctypes.ErrGRPCTooManyOps,

		// A key is written once.
		`success:P("a") success:P("a")`:                              rpctypes.ErrGRPCDuplicateKey,
		`failure:P("a") failure:P("a")`:                              rpctypes.ErrGRPCDuplicateKey,
		`success:P("a") success:D("a")`:                              rpctypes.ErrGRPCDuplicateKey,
		`success:D("a") success:P("a")`:                              rpctypes.ErrGRPCDuplicateKey,
		`success:D("a" range_end:"c") success:P("b")`:                rpctypes.ErrGRPCDuplicateKey,
		`success:D("a" range_end:"c") success:P("c")`:                nil,
		`success:D("a") success:D("a") success:D("a" range_end:"c")`: nil,
		`success:P("a") failure:D("a")`:                              nil,
		`success:P("a") success:R("a")`:                              nil,
		// A delete to the end of the key space is not seen, nor is one upside down.
		`success:D("a" range_end:"\0") success:P("b")`: nil,
		`success:D("c" range_end:"a") success:P("b")`:  nil,

		// Puts of nested transactions count on this level; the two branches of one exclude each other.
		`success:P("a") success:T(success:P("a"))`:                rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:P("a") failure:P("a"))`:                nil,
		`success:T(success:P("a") failure:P("a")) success:P("a")`: rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:P("a")) success:T(success:P("a"))`:     rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:P("a")) success:T(failure:P("a"))`:     rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:P("a")) success:D("a")`:                rpctypes.ErrGRPCDuplicateKey,
		`success:D("a") success:T(failure:P("a"))`:                rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:D("a" range_end:"c")) success:P("b")`:  rpctypes.ErrGRPCDuplicateKey,
		`success:T(failure:D("a" range_end:"c")) success:P("b")`:  rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:D("a")) success:T(success:P("a"))`:     rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:D("a") failure:P("a"))`:                nil,
		`success:T(success:T(success:P("a"))) success:P("a")`:     rpctypes.ErrGRPCDuplicateKey,
		`success:T(success:T(success:P("a") success:P("a")))`:     rpctypes.ErrGRPCDuplicateKey,
		`success:T(failure:T(success:P("a") success:D("a")))`:     rpctypes.ErrGRPCDuplicateKey,
		// A put in a nested transaction is not seen by a delete in a later one.
		`success:T(success:P("a")) success:T(success:D("a"))`: nil,
	} {
		t.Run(text, func(t *testing.T) {
			require.Equal(t, want, validate(parse(t, &pb.TxnRequest{}, expand(text)), 4))
		})
	}
}

func TestTxnBudget(t *testing.T) {
	ops := func(n int) (ops []*pb.RequestOp) {
		for i := range n {
			ops = append(ops, parse(t, &pb.RequestOp{}, fmt.Sprintf(`request_put:{key:"%d"}`, i)))
		}
		return ops
	}
	nested := func(n int) *pb.TxnRequest {
		return &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: ops(n)}}}}}
	}
	require.NoError(t, validate(nested(127), 128))
	require.Equal(t, rpctypes.ErrGRPCTooManyOps, validate(nested(128), 128))
	require.NoError(t, validate(&pb.TxnRequest{Failure: ops(128)}, 128))
	require.Equal(t, rpctypes.ErrGRPCTooManyOps, validate(&pb.TxnRequest{Failure: ops(129)}, 128))
}

func TestReadOnly(t *testing.T) {
	for text, want := range map[string][2]bool{
		``:                              {true, true},
		`compare:{key:"a"}`:             {true, true},
		`success:R("a")`:                {true, false},
		`success:R("a") failure:P("a")`: {false, false},
		`success:R("a" serializable:true) failure:R("a" serializable:true)`: {true, true},
		`success:R("a" serializable:true) failure:R("a")`:                   {true, false},
		`success:T(success:R("a" serializable:true))`:                       {false, false},
	} {
		r := parse(t, &pb.TxnRequest{}, expand(text))
		require.Equal(t, want, [2]bool{readOnly(r), serializable(r)}, text)
	}
}

func FuzzTxnValidation(f *testing.F) {
	for _, text := range []string{
		`success:P("a") success:D("a" range_end:"c")`,
		`success:T(success:D("a" range_end:"\0") failure:P("a")) failure:T(success:P("b"))`,
	} {
		b, err := proto.Marshal(parse(f, &pb.TxnRequest{}, expand(text)))
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &pb.TxnRequest{}
		if proto.Unmarshal(b, r) != nil {
			return
		}
		err := validate(r, 128)
		if _, ok := status.FromError(err); !ok {
			t.Fatalf("not a status: %v", err)
		}
		if err == nil && len(r.GetSuccess()) > 128 {
			t.Fatal("over the limit")
		}
	})
}

func TestStatuses(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code codes.Code
		text string
	}{
		{mvcc.ErrCompacted, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted"},
		{mvcc.ErrFuture, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision"},
		{state.ErrKeyNotFound, codes.InvalidArgument, "etcdserver: key not found"},
		{state.ErrNoSpace, codes.ResourceExhausted, "etcdserver: mvcc: database space exceeded"},
		{state.ErrCorrupt, codes.DataLoss, "etcdserver: corrupt cluster"},
		{state.ErrUnknownAction, codes.InvalidArgument, "etcdserver: unknown alarm action"},
		{lease.ErrNotFound, codes.NotFound, "etcdserver: requested lease not found"},
		{lease.ErrExists, codes.FailedPrecondition, "etcdserver: lease already exists"},
		{lease.ErrTTLTooLarge, codes.OutOfRange, "etcdserver: too large lease TTL"},
		{lease.ErrNotPrimary, codes.Unknown, "not a primary lessor"},
		{membership.ErrRemoved, codes.NotFound, "etcdserver: member not found"},
		{membership.ErrNotEnoughStarted, codes.Unknown, "etcdserver: re-configuration failed due to not enough started members"},
		{membership.ErrLastVoter, codes.Unknown, "etcdserver: re-configuration failed due to not enough started members"},
		{membership.ErrUnhealthy, codes.Unavailable, "etcdserver: unhealthy cluster"},
		{ErrNoLeader, codes.Unavailable, "etcdserver: no leader"},
		{ErrApplyTimeout, codes.Unavailable, "etcdserver: request timed out, waiting for the applied index took too long"},
		{ErrTransferTimeout, codes.Unknown, "etcdserver: request timed out, leader transfer took too long"},
		{membership.ErrExists, codes.FailedPrecondition, "etcdserver: member ID already exist"},
		{membership.ErrNotFound, codes.NotFound, "etcdserver: member not found"},
		{membership.ErrPeerURLExists, codes.FailedPrecondition, "etcdserver: Peer URLs already exists"},
		{membership.ErrNotLearner, codes.FailedPrecondition, "etcdserver: can only promote a learner member"},
		{membership.ErrTooManyLearners, codes.FailedPrecondition, "etcdserver: too many learner members in cluster"},
		{auth.ErrNotEnabled, codes.FailedPrecondition, "etcdserver: authentication is not enabled"},
		{auth.ErrRootUserNotFound, codes.FailedPrecondition, "etcdserver: root user does not exist"},
		{auth.ErrRootRoleNotFound, codes.FailedPrecondition, "etcdserver: root user does not have root role"},
		{auth.ErrUserEmpty, codes.InvalidArgument, "etcdserver: user name is empty"},
		{auth.ErrUserExists, codes.FailedPrecondition, "etcdserver: user name already exists"},
		{auth.ErrUserNotFound, codes.FailedPrecondition, "etcdserver: user name not found"},
		{auth.ErrRoleEmpty, codes.InvalidArgument, "etcdserver: role name is empty"},
		{auth.ErrRoleExists, codes.FailedPrecondition, "etcdserver: role name already exists"},
		{auth.ErrRoleNotFound, codes.FailedPrecondition, "etcdserver: role name not found"},
		{auth.ErrRoleNotGranted, codes.FailedPrecondition, "etcdserver: role is not granted to the user"},
		{auth.ErrPermissionNotGiven, codes.InvalidArgument, "etcdserver: permission not given"},
		{auth.ErrPermissionNotGranted, codes.FailedPrecondition, "etcdserver: permission is not granted to the role"},
		{auth.ErrInvalidManagement, codes.InvalidArgument, "etcdserver: invalid auth management"},
		{auth.ErrPermissionDenied, codes.PermissionDenied, "etcdserver: permission denied"},
		{auth.ErrOldRevision, codes.InvalidArgument, "etcdserver: revision of auth store is old"},
		{auth.ErrFailed, codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"},
		{auth.ErrInvalidToken, codes.Unauthenticated, "etcdserver: invalid auth token"},
		{auth.ErrTooManyChecks, codes.Unknown, "etcdserver: too many requests"},
		{consensus.ErrBusy, codes.Unknown, "etcdserver: too many requests"},
		{consensus.ErrLeaderChanged, codes.Unavailable, "etcdserver: leader changed"},
		{consensus.ErrStopped, codes.Unavailable, "etcdserver: server stopped"},
		{state.ErrReplaced, codes.Unavailable, "etcdserver: the data was replaced by that of another member meanwhile, try again"},
		{ErrTimeout, codes.Unavailable, "etcdserver: request timed out"},
		{ErrTimeoutLeaderFail, codes.Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"},
		{ErrTimeoutConnectionLost, codes.Unavailable, "etcdserver: request timed out, possibly due to connection lost"},
		{ErrTooLarge, codes.InvalidArgument, "etcdserver: request is too large"},
		{ErrCanceled, codes.Canceled, "etcdserver: request canceled"},
		{context.Canceled, codes.Canceled, "context canceled"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, "context deadline exceeded"},
		{rpctypes.ErrGRPCEmptyKey, codes.InvalidArgument, "etcdserver: key is not provided"},
		{errors.New("anything else"), codes.Unknown, "anything else"},
	} {
		t.Run(tc.err.Error(), func(t *testing.T) {
			got, ok := status.FromError(toStatus(tc.err))
			require.True(t, ok)
			require.Equal(t, tc.code, got.Code())
			require.Equal(t, tc.text, got.Message())
			if _, isStatus := status.FromError(tc.err); isStatus || tc.text == "anything else" || errors.Is(tc.err, context.Canceled) ||
				errors.Is(tc.err, context.DeadlineExceeded) {
				return
			}
			wrapped, _ := status.FromError(toStatus(fmt.Errorf("while doing: %w", tc.err)))
			require.Equal(t, tc.text, wrapped.Message(), "wrapping must not show")
		})
	}
	require.NoError(t, toStatus(nil))
	require.Len(t, statuses, 49, "a mapping that the table above does not know")
	require.Equal(t, &pb.AlarmMember{MemberID: 3, Alarm: pb.AlarmType_CORRUPT}, alarmMember(alarm.Alarm{Member: 3, Type: alarm.Corrupt}))
}
