package etcdapi

import (
	"context"
	"crypto/rand"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/test/bufconn"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/engine/memory"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// member is a Member without a log: what is proposed is applied at once. Its state is a real one.
type member struct {
	state     *state.State
	hub       *watch.Hub
	status    Status
	mu        sync.Mutex
	readErr   error
	readAlso  func() // runs before every read, without the lock
	reads     []bool // linearizable or not, of every read
	proposed  int
	compacted []int64
	proposals error
	awaited   []uint64
	// catchUp runs when an entry is waited for, before anything else.
	catchUp func()
	// beforeLogin runs before a login is applied.
	beforeLogin func()
	credentials Credentials
	full        bool
}

func (m *member) Header() Header { return Header{Cluster: 11, Member: 22, Term: 33} }

func (m *member) Read(_ context.Context, linearizable bool) (*state.View, error) {
	m.mu.Lock()
	also, err := m.readAlso, m.readErr
	m.reads = append(m.reads, linearizable)
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if also != nil {
		also()
	}
	return m.state.View(), nil
}

func (m *member) Propose(_ context.Context, req *pb.InternalRaftRequest) (state.Result, error) {
	m.mu.Lock()
	m.proposed++
	err, before := m.proposals, m.beforeLogin
	m.mu.Unlock()
	if err != nil {
		return state.Result{}, err
	}
	if before != nil && req.Authenticate != nil {
		before()
	}
	return m.apply(req)
}

func (m *member) apply(req *pb.InternalRaftRequest) (state.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	index := m.state.Applied().Index + 1
	if req.Header == nil {
		req.Header = &pb.RequestHeader{}
	}
	req.Header.ID = index
	turn, err := m.state.Apply([]state.Entry{{Index: index, Term: 1, Request: req}})
	if err != nil {
		return state.Result{}, err
	}
	if m.credentials.Tokens != nil {
		m.credentials.Tokens.Apply(turn.Auth, time.Now())
		m.credentials.Passwords.Apply(turn.Auth)
	}
	m.hub.Publish(turn.Events, turn.View.KV.Current())
	return turn.Outcomes[0].Result, nil
}

// Admit implements Space.
func (m *member) Admit(_ context.Context, req *pb.InternalRaftRequest) error {
	if m.full && state.Cost(req) > 0 {
		return state.ErrNoSpace
	}
	return nil
}

func (m *member) Compacted(_ context.Context, revision int64) error {
	m.compacted = append(m.compacted, revision)
	return nil
}

func (m *member) Await(_ context.Context, index uint64) error {
	if m.catchUp != nil {
		m.catchUp()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.awaited = append(m.awaited, index)
	if index > m.state.Applied().Index {
		return ErrTimeout
	}
	return nil
}

func (m *member) Users() *auth.View { return m.state.Users() }

func (m *member) Status() Status { return m.status }

// clock is the Leases of a member whose time stands still.
type clock struct {
	state *state.State
	fail  error
	left  time.Duration
	also  func() // runs before a lease's time is read
}

func (c *clock) Renew(_ context.Context, id int64) (int64, error) {
	l, _ := c.state.Leases().Get(id)
	return l.TTL, c.fail
}

func (c *clock) TimeToLive(_ context.Context, id int64) (LeaseTime, error) {
	if c.also != nil {
		c.also()
	}
	l, ok := c.state.Leases().Get(id)
	if c.fail != nil {
		return LeaseTime{}, c.fail
	}
	if !ok {
		return LeaseTime{}, ErrLeaseGone
	}
	return LeaseTime{Remaining: c.left, Granted: l.TTL, Keys: c.state.Leases().Keys(id)}, nil
}

func (c *clock) IDs() (ids []int64) {
	for id := range int64(100) {
		if c.state.Leases().Exists(id) {
			ids = append(ids, id)
		}
	}
	slices.Reverse(ids) // no order that the service could have made itself
	return ids
}

func (c *clock) CheckKeys(users *auth.View, who auth.Identity, id int64, kind auth.Access) error {
	return c.state.CheckLeaseKeys(users, who, id, kind)
}

// rawCodec is gRPC's codec that also sends answers which are encoded already.
type rawCodec struct{ encoding.CodecV2 }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if e, ok := v.(encoded); ok {
		return mem.BufferSlice{mem.SliceBuffer(e.AppendTo(nil))}, nil
	}
	return c.CodecV2.Marshal(v)
}

// newCredentials are simple tokens and passwords that cost as little as bcrypt allows.
func newCredentials(t *testing.T) Credentials {
	opts, err := auth.ParseTokenOptions("simple")
	require.NoError(t, err)
	tokens, err := auth.NewTokens(auth.TokenConfig{Options: opts, Random: rand.Reader}, time.Now())
	require.NoError(t, err)
	passwords, err := auth.NewPasswords(auth.PasswordConfig{Cost: bcrypt.MinCost, Random: rand.Reader})
	require.NoError(t, err)
	return Credentials{Tokens: tokens, Passwords: passwords, CertificateNames: true}
}

// fixture is the services of a member behind a gRPC connection.
type fixture struct {
	t        *testing.T
	ctx      context.Context
	member   *member
	clock    *clock
	operator *fakeOperator
	copies   *copies
	services *Services
	conn     *grpc.ClientConn
	kv       pb.KVClient
	watch    pb.WatchClient
	lease    pb.LeaseClient
}

func newFixture(t *testing.T, opts ...grpc.ServerOption) *fixture {
	eng, err := memory.Open(t.TempDir(), memory.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, eng.Close()) })
	s, err := state.Open(eng, state.Config{MinTTL: 1, MaxLearners: 1})
	require.NoError(t, err)
	m := &member{state: s, hub: watch.New(s, watch.Options{})}
	ctx, cancel := context.WithCancel(context.Background())
	var hub sync.WaitGroup
	hub.Go(func() {
		if err := m.hub.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	f := &fixture{t: t, ctx: ctx, member: m, clock: &clock{state: s}, copies: &copies{}}
	m.credentials = newCredentials(t)
	f.operator = &fakeOperator{member: m}
	f.services = New(m, f.clock, f.operator, f.copies, m.hub, Limits{RequestBytes: 1 << 20, TxnOps: 128, Space: m, StrictReconfig: true}, m.credentials)
	server := grpc.NewServer(append(opts, grpc.ForceServerCodecV2(rawCodec{encoding.GetCodecV2(grpcproto.Name)}))...)
	f.services.Register(server)
	ln := bufconn.Listen(1 << 20)
	hub.Go(func() {
		if err := server.Serve(ln); err != nil {
			t.Error(err)
		}
	})
	f.conn, err = grpc.NewClient("passthrough:///member", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) }))
	require.NoError(t, err)
	f.kv, f.watch, f.lease = pb.NewKVClient(f.conn), pb.NewWatchClient(f.conn), pb.NewLeaseClient(f.conn)
	t.Cleanup(func() {
		require.NoError(t, f.conn.Close())
		server.Stop()
		cancel()
		hub.Wait()
	})
	return f
}

// put puts keys through the service and returns the last revision.
func (f *fixture) put(pairs ...string) int64 {
	var rev int64
	for i := 0; i < len(pairs); i += 2 {
		res, err := f.kv.Put(f.ctx, &pb.PutRequest{Key: []byte(pairs[i]), Value: []byte(pairs[i+1])})
		require.NoError(f.t, err)
		rev = res.GetHeader().GetRevision()
	}
	return rev
}

func (f *fixture) header(revision int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 11, MemberId: 22, RaftTerm: 33, Revision: revision}
}

// addMember adds a member, given as JSON, to the cluster.
func addMember(t *testing.T, f *fixture, text string) {
	index := f.member.state.Applied().Index + 1
	turn, err := f.member.state.Apply([]state.Entry{{Index: index, Term: 1, Conf: &raftpb.ConfChange{
		Type: raftpb.ConfChangeAddNode.Enum(), NodeId: new(uint64(5)), Context: []byte(text),
	}}})
	require.NoError(t, err)
	require.False(t, turn.Confs[0].Rejected)
}
