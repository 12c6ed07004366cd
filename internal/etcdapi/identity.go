package etcdapi

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Credentials is how users prove who they are.
type Credentials struct {
	// Tokens issues and knows tokens.
	Tokens auth.Tokens
	// Passwords hashes and verifies passwords.
	Passwords *auth.Passwords
	// CertificateNames lets the common name of a verified client certificate stand for a user.
	CertificateNames bool
}

const (
	// metadataGateway marks what comes through the JSON gateway.
	metadataGateway = "grpcgateway-accept"
	bearer          = "Bearer "
)

// claims is what a request says of its caller.
type claims interface {
	// Field returns the first value of a field of the request's metadata.
	Field(name string) (value string, ok bool)
	// Peer returns who is at the other end of the connection, nil if that is not known.
	Peer() *peer.Peer
}

// contextClaims is those of a request with a context.
type contextClaims struct{ ctx context.Context }

// Field implements claims.
func (c contextClaims) Field(name string) (string, bool) {
	if v := metadata.ValueFromIncomingContext(c.ctx, name); len(v) > 0 {
		return v[0], true
	}
	return "", false
}

// Peer implements claims.
func (c contextClaims) Peer() *peer.Peer {
	p, _ := peer.FromContext(c.ctx)
	return p
}

// token returns the token that a request brings, and whether it brings one.
func token(c claims) (string, bool) {
	for _, name := range [...]string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if v, ok := c.Field(name); ok {
			return strings.TrimPrefix(v, bearer), true
		}
	}
	return "", false
}

// awaitToken waits, if a request brings the token of a member that is ahead of this one, until the login is
// applied here. It comes before what the request is answered from is taken: that must be no older than the
// user, and must not be held by somebody who waits with a forged token. If the login does not come in time,
// the token is one that nobody knows.
func (s *Services) awaitToken(ctx context.Context) {
	users := s.member.Users()
	if !users.Enabled() {
		return
	}
	text, _ := token(contextClaims{ctx})
	index := s.credentials.Tokens.AppliedIndex(text)
	if index == 0 {
		return
	}
	if _, err := s.credentials.Tokens.Identify(text, users.Revision(), time.Now()); err != nil {
		_ = s.member.Await(ctx, index)
	}
}

// read returns the newest view for a request whose caller is identified by it.
func (s *Services) read(ctx context.Context, linearizable bool) (*state.View, error) {
	s.awaitToken(ctx)
	return s.member.Read(ctx, linearizable)
}

// identify returns who a request comes from by the users of a view that was taken after awaitToken: nobody
// if auth is off or the request says nothing. A token that does not hold is an error even if a certificate
// would have told: whoever sends one means it. Error: auth.ErrInvalidToken.
func (s *Services) identify(ctx context.Context, users *auth.View) (auth.Identity, error) {
	if !users.Enabled() {
		return auth.Identity{}, nil // before claims are made, which takes an allocation
	}
	return s.identifyBy(contextClaims{ctx}, users)
}

// identifyBy is identify for claims, while auth is on.
func (s *Services) identifyBy(c claims, users *auth.View) (auth.Identity, error) {
	text, given := token(c)
	if !given {
		return s.certificate(c, users), nil
	}
	return s.credentials.Tokens.Identify(text, users.Revision(), time.Now())
}

// certificate returns the user whom a client certificate names, nobody if there is none. What comes through
// the JSON gateway comes with the gateway's certificate, which is not the caller's.
func (s *Services) certificate(c claims, users *auth.View) auth.Identity {
	if !s.credentials.CertificateNames {
		return auth.Identity{}
	}
	if _, gateway := c.Field(metadataGateway); gateway {
		return auth.Identity{}
	}
	p := c.Peer()
	if p == nil {
		return auth.Identity{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return auth.Identity{}
	}
	for _, chain := range info.State.VerifiedChains {
		if len(chain) > 0 {
			return users.Identity(chain[0].Subject.CommonName)
		}
	}
	return auth.Identity{}
}

// caller returns who a request comes from and the newest users and roles, by which that was established.
func (s *Services) caller(ctx context.Context) (auth.Identity, *auth.View, error) {
	s.awaitToken(ctx)
	users := s.member.Users()
	who, err := s.identify(ctx, users)
	return who, users, err
}

// authorizeAdmin refuses callers who are no administrators while auth is on.
func (s *Services) authorizeAdmin(ctx context.Context) error {
	who, users, err := s.caller(ctx)
	if err != nil {
		return err
	}
	return users.CheckAdmin(who)
}

// authorizeSignedIn refuses callers of whom nothing is known while auth is on.
func (s *Services) authorizeSignedIn(ctx context.Context) error {
	who, users, err := s.caller(ctx)
	if err != nil {
		return err
	}
	return users.CheckSignedIn(who)
}

// authorizeRead refuses callers who may not read a range, by the users of a view, and returns who calls.
func (s *Services) authorizeRead(ctx context.Context, users *auth.View, key, end []byte) (auth.Identity, error) {
	who, err := s.identify(ctx, users)
	if err != nil {
		return who, err
	}
	return who, users.Check(who, key, end, auth.Read)
}

// sameRevision refuses a read whose caller is known by users and roles other than those of the view it
// reads. The checks of permissions refuse older ones, but not where they have nothing to check, as in an
// empty transaction, and not a signed token of a later revision, as of a cluster that was restored since.
func sameRevision(who auth.Identity, users *auth.View) error {
	if who.Revision != 0 && who.Revision != users.Revision() {
		return auth.ErrOldRevision
	}
	return nil
}

// authorizeLeases refuses callers who may not access every key that hangs on one of the leases.
func (s *Services) authorizeLeases(ctx context.Context, kind auth.Access, ids ...int64) error {
	who, users, err := s.caller(ctx)
	if err != nil || !users.Enabled() {
		return err
	}
	if err := users.CheckSignedIn(who); err != nil {
		return err
	}
	for _, id := range ids {
		if err := s.leases.CheckKeys(users, who, id, kind); err != nil {
			return err
		}
	}
	return nil
}

// propose sends a request through the log in its caller's name and returns its result, rejections as
// errors. What the caller may do is decided where the request is applied.
func (s *Services) propose(ctx context.Context, req *pb.InternalRaftRequest) (state.Result, error) {
	who, _, err := s.caller(ctx)
	if err != nil {
		return state.Result{}, err
	}
	req.Header = &pb.RequestHeader{Username: who.User, AuthRevision: who.Revision}
	return s.proposeUnnamed(ctx, req)
}

// proposeUnnamed is propose for a request that nobody needs to be known for.
func (s *Services) proposeUnnamed(ctx context.Context, req *pb.InternalRaftRequest) (state.Result, error) {
	res, err := s.member.Propose(ctx, req)
	if err == nil {
		err = res.Err
	}
	return res, err
}

// watchRefusal returns the reason for which a watch is refused, as clients know it.
func watchRefusal(err error) string {
	for _, known := range []struct{ err, status error }{
		{auth.ErrInvalidToken, rpctypes.ErrGRPCInvalidAuthToken},
		{auth.ErrOldRevision, rpctypes.ErrGRPCAuthOldRevision},
		{auth.ErrUserEmpty, rpctypes.ErrGRPCUserEmpty},
	} {
		if errors.Is(err, known.err) {
			return known.status.Error()
		}
	}
	return rpctypes.ErrGRPCPermissionDenied.Error()
}

// Token returns the token that a request's caller has given, "" without one: another member may have to be asked in
// the caller's name.
func Token(ctx context.Context) string {
	text, _ := token(contextClaims{ctx})
	return text
}
