package discovery

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Errors of Join with etcd's texts; what is wrong follows on them.
var (
	// ErrJoin is what all others are wrapped in.
	ErrJoin = errors.New("failed to join discovery cluster")

	ErrSizeNotFound = errors.New("discovery: size key not found")
	ErrBadSize      = errors.New("discovery: size key is bad")
	ErrFull         = errors.New("discovery: cluster is full")
	ErrInvalidURL   = errors.New("discovery: invalid peer URL")
	ErrDuplicate    = errors.New("discovery: two members have the same name or URL")
)

const (
	// registry is where clusters are kept, by token; etcd's members look there too.
	registry = "/_etcd/registry"
	// firstPause is the first pause after a request that failed; it doubles up to lastPause, etcd's figure.
	firstPause = time.Second
	lastPause  = 256 * time.Second
	// lookInterval is how often the members are looked at while others are missing, also if no watch tells of them.
	lookInterval = 10 * time.Second
	// maxListed bounds how many registrations are read: those of the cluster come first.
	maxListed = 1000
	// maxAnswerBytes bounds an answer of the service.
	maxAnswerBytes = 16 << 20
)

// Config says which service is asked, and about which cluster.
type Config struct {
	// Client says where the service is, how it is reached and who asks. RequestTimeout bounds each request.
	Client clientv3.ConfigSpec
	// Token names the cluster. Whoever starts the service's cluster has written how many members it is to have.
	Token string
}

// Member is the member that registers itself.
type Member struct {
	ID uint64
	// Cluster is "name=url,name=url" of this member alone.
	Cluster string
}

// joining is one member's way into a cluster.
type joining struct {
	lg     *zap.Logger
	cfg    Config
	self   Member
	client *clientv3.Client
	pause  time.Duration // after the next failure
	// wait pauses; tests do not.
	wait func(ctx context.Context, d time.Duration) error
}

// Join registers a member with a service, which is a cluster that runs already, waits until as many members as the
// cluster is to have are registered, and returns those in the form of --initial-cluster. Who was registered first is in
// it; a member that was registered before keeps its place. Requests that fail are repeated until ctx ends.
//
// Errors: ErrSizeNotFound, ErrBadSize, ErrFull, ErrInvalidURL, ErrDuplicate, those of certificates, users and
// permissions, and ctx's.
func Join(ctx context.Context, lg *zap.Logger, cfg Config, self Member) (string, error) {
	lg = lg.With(zap.String("discovery-token", cfg.Token), zap.Strings("discovery-endpoints", cfg.Client.Endpoints))
	j := &joining{lg: lg, cfg: cfg, self: self, pause: firstPause, wait: sleep}
	cluster, err := j.join(ctx)
	if j.client != nil {
		_ = j.client.Close() // it has done its work, or its error is known
	}
	if err != nil {
		return "", fmt.Errorf("%w (%w)", ErrJoin, err)
	}
	lg.Info("discovery joined cluster successfully", zap.String("cluster", cluster))
	return cluster, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (j *joining) join(ctx context.Context) (string, error) {
	if err := j.retry(ctx, "connect", j.connect); err != nil {
		return "", err
	}
	// Who comes too late must leave no trace.
	if _, err := j.look(ctx); err != nil {
		return "", err
	}
	if err := j.retry(ctx, "register member itself", j.register); err != nil {
		return "", err
	}
	j.lg.Info("register member itself successfully", zap.String("memberKey", j.key()), zap.String("memberInfo", j.self.Cluster))
	for {
		r, err := j.look(ctx)
		if err != nil {
			return "", err
		}
		if len(r.members) >= r.size {
			j.lg.Info("found all needed peers from discovery service", zap.Int("clusterSize", r.size), zap.Int("found-peers", len(r.members)))
			return r.cluster()
		}
		j.lg.Info("waiting for peers from discovery service", zap.Int("clusterSize", r.size), zap.Int("found-peers", len(r.members)),
			zap.Strings("found", r.values()), zap.Duration("next-look-within", lookInterval))
		if err := j.awaitChange(ctx, r.revision); err != nil {
			return "", err
		}
	}
}

// connect makes the client. With a user it logs in, so it may fail for other reasons than bad settings.
func (j *joining) connect(ctx context.Context) error {
	cfg, err := clientv3.NewClientConfig(&j.cfg.Client, j.lg)
	if err != nil {
		return final{fmt.Errorf("read the certificates of --discovery-*: %w", err)}
	}
	cfg.Context, cfg.Logger, cfg.MaxCallRecvMsgSize = ctx, j.lg.WithOptions(zap.IncreaseLevel(zap.WarnLevel)), maxAnswerBytes
	j.client, err = clientv3.New(*cfg)
	return err
}

// final is an error after which nothing is tried again.
type final struct{ error }

func (f final) Unwrap() error { return f.error }

// hopeless says whether somebody must do something first.
func hopeless(err error) bool {
	var f final
	if errors.As(err, &f) {
		return true
	}
	for _, known := range []error{
		rpctypes.ErrAuthFailed, rpctypes.ErrPermissionDenied, rpctypes.ErrUserEmpty, rpctypes.ErrUserNotFound,
		clientv3.ErrNoAvailableEndpoints,
	} {
		if errors.Is(rpctypes.Error(err), known) {
			return true
		}
	}
	return false
}

// retry does something until it succeeds or nothing will change by itself.
func (j *joining) retry(ctx context.Context, what string, do func(context.Context) error) error {
	for {
		err := do(ctx)
		switch {
		case err == nil:
			j.pause = firstPause
			return nil
		case ctx.Err() != nil:
			return errors.Join(ctx.Err(), err)
		case hopeless(err):
			return fmt.Errorf("%s: %w", what, err)
		}
		j.lg.Warn("retry connecting to discovery service", zap.String("reason", what), zap.Duration("backoff", j.pause), zap.Error(err))
		if err := j.wait(ctx, j.pause); err != nil {
			return err
		}
		j.pause = min(2*j.pause, lastPause)
	}
}

// request is retry for one request.
func (j *joining) request(ctx context.Context, what string, do func(context.Context) error) error {
	return j.retry(ctx, what, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, j.cfg.Client.RequestTimeout)
		defer cancel()
		return do(ctx)
	})
}

func (j *joining) prefix() string { return path.Join(registry, j.cfg.Token) }
func (j *joining) key() string    { return j.members() + types.ID(j.self.ID).String() }

// members is the prefix of the keys of members; etcd's has no slash at its end.
func (j *joining) members() string { return path.Join(j.prefix(), "members") + "/" }

func (j *joining) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, j.cfg.Client.RequestTimeout)
	defer cancel()
	_, err := j.client.Put(ctx, j.key(), j.self.Cluster)
	return err
}

// registered is what the service holds of a cluster.
type registered struct {
	size     int
	members  []registration // by age, at most maxListed
	revision int64
}

type registration struct {
	key, value string
}

// look reads how many members there are to be and who is registered. It fails with ErrFull if this member is too late.
func (j *joining) look(ctx context.Context) (r registered, err error) {
	if r.size, err = j.size(ctx); err != nil {
		return r, err
	}
	var res *clientv3.GetResponse
	err = j.request(ctx, "cluster status check", func(ctx context.Context) (err error) {
		res, err = j.client.Get(ctx, j.members(), clientv3.WithPrefix(), clientv3.WithLimit(maxListed),
			clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend))
		return err
	})
	if err != nil {
		return r, err
	}
	r.revision = res.Header.GetRevision()
	for _, kv := range res.Kvs {
		m := registration{key: strings.TrimSpace(string(kv.GetKey())), value: strings.TrimSpace(string(kv.GetValue()))}
		if !strings.Contains(m.value, "=") {
			j.lg.Warn("invalid peer info returned from discovery service", zap.String("memberKey", m.key), zap.String("memberInfo", m.value))
			continue
		}
		r.members = append(r.members, m)
	}
	place := slices.IndexFunc(r.members, func(m registration) bool { return m.key == j.key() })
	if place >= r.size || place < 0 && len(r.members) >= r.size {
		return r, fmt.Errorf("%w: its %d members are %s; begin each cluster with a token of its own, whose size is in %s",
			ErrFull, r.size, strings.Join(r.values()[:r.size], " "), j.sizeKey())
	}
	return r, nil
}

func (j *joining) sizeKey() string { return path.Join(j.prefix(), "_config/size") }

func (j *joining) size(ctx context.Context) (int, error) {
	var res *clientv3.GetResponse
	err := j.request(ctx, "cluster status check", func(ctx context.Context) (err error) {
		res, err = j.client.Get(ctx, j.sizeKey())
		return err
	})
	if err != nil {
		return 0, err
	}
	if len(res.Kvs) == 0 {
		return 0, fmt.Errorf("%w: write how many members the cluster is to have to %s", ErrSizeNotFound, j.sizeKey())
	}
	text := string(res.Kvs[0].GetValue())
	size, err := strconv.Atoi(text)
	if err != nil || size <= 0 {
		return 0, fmt.Errorf("%w: %s is %.40q, which is no number above 0", ErrBadSize, j.sizeKey(), text)
	}
	return size, nil
}

// awaitChange returns when something has happened below the token since a revision, or after a while. Whoever asks
// looks again, so that nothing depends on what a watch says.
func (j *joining) awaitChange(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(lookInterval)
	defer timer.Stop()
	changes := j.client.Watch(clientv3.WithRequireLeader(ctx), j.members(), clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	for {
		select {
		case res, ok := <-changes:
			if ok && res.Err() == nil && len(res.Events) == 0 {
				continue // it was created
			}
			if !ok || res.Err() != nil {
				changes = nil
				continue
			}
			return nil
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r registered) values() []string {
	list := make([]string, 0, len(r.members))
	for _, m := range r.members {
		list = append(list, m.value)
	}
	return list
}

// cluster is those who came first.
func (r registered) cluster() (string, error) {
	r.members = r.members[:r.size]
	names, urls := map[string]string{}, map[string]string{}
	for _, m := range r.members {
		parsed, err := types.NewURLsMap(m.value)
		if err != nil {
			return "", fmt.Errorf("%w: %s is %q: %w", ErrInvalidURL, m.key, m.value, err)
		}
		for name, list := range parsed {
			if other, found := names[name]; found {
				return "", fmt.Errorf("%w: %s and %s are both called %q; give each its own --name, and begin with a new token",
					ErrDuplicate, other, m.key, name)
			}
			names[name] = m.key
			for _, u := range list {
				if other, found := urls[u.String()]; found && other != m.key {
					return "", fmt.Errorf("%w: %s and %s are both at %s; begin with a new token", ErrDuplicate, other, m.key, u.String())
				}
				urls[u.String()] = m.key
			}
		}
	}
	return strings.Join(r.values(), ","), nil
}
