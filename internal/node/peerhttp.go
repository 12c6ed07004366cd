package node

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/etcdapi"
	"github.com/dolmen-io/dolmen/internal/lease"
	"github.com/dolmen-io/dolmen/internal/membership"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/lease/leasepb"
)

// maxLeaseRequest bounds a question about a lease, which holds a number. It is etcd's figure.
const maxLeaseRequest = 64 << 10

// Texts by which etcd's members know what ours say.
const (
	leaseNotFound   = "lease not found"
	leaseNotPrimary = "not a primary lessor"
	leaseBehind     = "waiting for node to catch up its applied index has timed out"
)

// peerHandler serves peer URLs: raft's messages, what members ask the leader, and what base does.
func (m *Member) peerHandler(base http.Handler, services *etcdapi.Services) http.Handler {
	if m.network == nil {
		return base
	}
	mux := http.NewServeMux()
	raft := m.whenRunning(m.network.transport.Handler())
	mux.Handle("/raft", raft)
	mux.Handle("/raft/", raft)
	mux.Handle(leasePath, m.whenRunning(leaseHandler(m, m.answerRenewal)))
	mux.Handle(leaseInternalPath, m.whenRunning(leaseHandler(m, m.answerTimeToLive)))
	mux.Handle("/members/promote/", m.whenRunning(onlyPost(m.promoteHandler(services))))
	mux.HandleFunc("/downgrade/enabled", m.downgradeEnabled)
	mux.Handle("/", base)
	return m.network.transport.Guard(mux)
}

// whenRunning refuses what needs a member that takes part in the cluster while this one still compares its data with the
// others'. They ask again.
func (m *Member) whenRunning(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !m.runs.Load() {
			http.Error(w, "this member is starting; try again", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func onlyPost(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		next(w, r)
	}
}

// leaseHandler reads a question, waits until this member knows of every lease that was granted before, and answers.
func leaseHandler(m *Member, answer func(ctx context.Context, body []byte) (proto.Message, int, error)) http.HandlerFunc {
	return onlyPost(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLeaseRequest))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			http.Error(w, "request body too large", http.StatusRequestEntityTooLarge)
			return
		case err != nil:
			http.Error(w, "error reading body", http.StatusBadRequest)
			return
		}
		if err := m.catchUp(r.Context()); err != nil {
			http.Error(w, leaseBehind, http.StatusRequestTimeout)
			return
		}
		res, status, err := answer(r.Context(), body)
		if err != nil {
			http.Error(w, err.Error(), status)
			return
		}
		text, err := proto.Marshal(res)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/protobuf")
		_, _ = w.Write(text) // who asked is gone
	})
}

var errBadRequest = errors.New("error unmarshalling request")

func (m *Member) answerRenewal(ctx context.Context, body []byte) (proto.Message, int, error) {
	var req pb.LeaseKeepAliveRequest
	if err := proto.Unmarshal(body, &req); err != nil {
		return nil, http.StatusBadRequest, errBadRequest
	}
	ctx, cancel := context.WithTimeout(ctx, m.patience)
	defer cancel()
	ttl, err := lessor{m}.renewHere(ctx, req.GetID())
	switch {
	case errors.Is(err, lease.ErrNotPrimary):
		return nil, http.StatusBadRequest, errors.New(leaseNotPrimary)
	case err != nil:
		return nil, http.StatusBadRequest, err
	case ttl == 0:
		return nil, http.StatusNotFound, errors.New(leaseNotFound)
	}
	return &pb.LeaseKeepAliveResponse{ID: req.GetID(), TTL: ttl}, http.StatusOK, nil
}

func (m *Member) answerTimeToLive(_ context.Context, body []byte) (proto.Message, int, error) {
	var req leasepb.LeaseInternalRequest
	if err := proto.Unmarshal(body, &req); err != nil || req.GetLeaseTimeToLiveRequest() == nil {
		return nil, http.StatusBadRequest, errBadRequest
	}
	asked := req.GetLeaseTimeToLiveRequest()
	t, err := lessor{m}.timeToLiveHere(asked.GetID())
	switch {
	case errors.Is(err, lease.ErrNotFound):
		return nil, http.StatusNotFound, errors.New(leaseNotFound)
	case errors.Is(err, lease.ErrNotPrimary):
		return nil, http.StatusInternalServerError, errors.New(leaseNotPrimary)
	case err != nil:
		return nil, http.StatusInternalServerError, err
	}
	res := &pb.LeaseTimeToLiveResponse{
		Header: &pb.ResponseHeader{}, ID: asked.GetID(), TTL: int64(t.Remaining / time.Second), GrantedTTL: t.Granted,
	}
	if asked.GetKeys() {
		for _, key := range t.Keys {
			res.Keys = append(res.Keys, []byte(key))
		}
	}
	return &leasepb.LeaseInternalResponse{LeaseTimeToLiveResponse: res}, http.StatusOK, nil
}

// promoteHandler gives a learner its vote, for a member that does not lead. Its caller's token decides.
func (m *Member) promoteHandler(services *etcdapi.Services) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Etcd-Cluster-ID", types.ID(m.id.cluster).String())
		text := strings.TrimPrefix(r.URL.Path, "/members/promote/")
		id, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			http.Error(w, "member "+strconv.Quote(text)+" not found in cluster", http.StatusNotFound)
			return
		}
		members, err := services.Promote(r.Context(), r.Header.Get("Authorization"), id)
		if err != nil {
			m.lg.Warn("failed to promote a member", zap.Stringer("member-id", types.ID(id)), zap.Error(err))
			code, text := promoteRefusal(err)
			http.Error(w, text, code)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(members); err != nil {
			m.lg.Debug("could not answer a promotion", zap.Error(err))
		}
	}
}

// promoteRefusal returns the status and the text that the member which asked knows an error by, be it ours or etcd's.
func promoteRefusal(err error) (code int, text string) {
	text = etcdapi.Message(err)
	switch {
	case errors.Is(err, membership.ErrNotFound), errors.Is(err, membership.ErrRemoved):
		return http.StatusNotFound, text
	case errors.Is(err, membership.ErrNotLearner), errors.Is(err, rpctypes.ErrGRPCMemberNotLearner):
		return http.StatusPreconditionFailed, "membership: can only promote a learner member"
	case errors.Is(err, rpctypes.ErrGRPCLearnerNotReady):
		return http.StatusPreconditionFailed, text
	case errors.Is(err, etcdapi.ErrTimeout):
		return http.StatusRequestTimeout, text
	}
	return http.StatusInternalServerError, text
}

// downgradeEnabled says whether the cluster is being downgraded, for members that are to join.
func (m *Member) downgradeEnabled(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("X-Etcd-Cluster-ID", types.ID(m.id.cluster).String())
	v, err := m.Read(r.Context(), true)
	if err != nil {
		http.Error(w, "failed to get downgrade enabled status", http.StatusInternalServerError)
		return
	}
	enabled := v.Members.Downgrade().Enabled
	v.Release()
	w.Header().Set("Content-Type", "text/plain")
	_, _ = io.WriteString(w, strconv.FormatBool(enabled)) // who asked is gone
}
