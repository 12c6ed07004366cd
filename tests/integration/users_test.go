package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/tests/harness"
)

const (
	actingUsers   = 4
	writesOfOne   = 80  // of each kind
	leastChanges  = 40  // of users and roles while they write
	attemptsToTry = 200 // to log in while somebody changes the password
)

// actor is a user who writes with a client of its own, and logs in again when its password has changed.
type actor struct {
	name     string
	password atomic.Pointer[string]
	endpoint string
	client   *clientv3.Client

	// What became of writes, by key.
	acked, refused map[string]string
	// unsure are those that may have happened or not.
	unsure map[string]string
}

// isRefusal reports whether an error says that the request was not even tried because of who made it.
func isRefusal(err error) bool {
	for _, refusal := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}

// signIn makes a client that has logged in. The password may change meanwhile.
func (a *actor) signIn(ctx context.Context) (err error) {
	if a.client != nil {
		a.client.Close()
	}
	for range attemptsToTry {
		a.client, err = clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{a.endpoint}, Username: a.name, Password: *a.password.Load(),
			DialTimeout: testDeadline, Logger: zap.NewNop()})
		if err == nil || !isRefusal(err) {
			return err
		}
	}
	return fmt.Errorf("%s cannot log in: %w", a.name, err)
}

// write writes a key once and notes what became of it.
func (a *actor) write(ctx context.Context, key, value string) error {
	_, err := a.client.Put(ctx, key, value)
	switch {
	case err == nil:
		a.acked[key] = value
	case isRefusal(err):
		a.refused[key] = value
	default:
		a.unsure[key] = value
	}
	return err
}

// run writes own keys, which nobody ever forbids, shared ones, which an administrator allows and forbids, and others'.
func (a *actor) run(ctx context.Context) error {
	if err := a.signIn(ctx); err != nil {
		return err
	}
	defer func() { a.client.Close() }()
	for n := range writesOfOne {
		for _, kind := range []struct {
			key     string
			allowed bool // denying it is a fault
			denied  bool // allowing it is a fault
		}{
			{key: fmt.Sprintf("own/%s/%d", a.name, n), allowed: true},
			{key: fmt.Sprintf("shared/%s/%d", a.name, n)},
			{key: fmt.Sprintf("secret/%s/%d", a.name, n), denied: true},
		} {
			err := a.write(ctx, kind.key, fmt.Sprint(n))
			switch {
			case kind.denied && err == nil:
				return fmt.Errorf("%s could write %s", a.name, kind.key)
			case kind.allowed && errors.Is(err, rpctypes.ErrPermissionDenied):
				return fmt.Errorf("%s could not write %s: %w", a.name, kind.key, err)
			case err != nil && !isRefusal(err):
				return fmt.Errorf("%s writes %s: %w", a.name, kind.key, err)
			case err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied):
				if err := a.signIn(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// administrate changes roles and passwords until done is closed and it has made leastChanges.
func administrate(ctx context.Context, c *clientv3.Client, actors []*actor, done <-chan struct{}) error {
	shared := clientv3.PermissionType(clientv3.PermReadWrite)
	for n := 0; ; n++ {
		select {
		case <-done:
			if n >= leastChanges {
				return nil
			}
		default:
		}
		a := actors[n%len(actors)]
		var err error
		switch n % 5 {
		case 0:
			_, err = c.UserGrantRole(ctx, a.name, "shared")
		case 1:
			_, err = c.RoleGrantPermission(ctx, "role of "+a.name, "shared/", "shared0", shared)
		case 2:
			next := fmt.Sprint("password ", n)
			if _, err = c.UserChangePassword(ctx, a.name, next); err == nil {
				a.password.Store(&next)
			}
		case 3:
			if _, err = c.UserRevokeRole(ctx, actors[(n+2)%len(actors)].name, "shared"); errors.Is(err, rpctypes.ErrRoleNotGranted) {
				err = nil
			}
		case 4:
			_, err = c.RoleRevokePermission(ctx, "role of "+actors[(n+2)%len(actors)].name, "shared/", "shared0")
			if errors.Is(err, rpctypes.ErrPermissionNotGranted) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("change %d: %w", n, err)
		}
	}
}

// population makes an administrator, a role for each actor and a shared one, and turns auth on.
func population(ctx context.Context, t *testing.T, c *clientv3.Client, endpoint string) []*actor {
	t.Helper()
	do := func(_ any, err error) {
		t.Helper()
		must(t, err)
	}
	do(c.UserAdd(ctx, "root", "root's"))
	do(c.UserGrantRole(ctx, "root", "root"))
	do(c.RoleAdd(ctx, "shared"))
	do(c.RoleGrantPermission(ctx, "shared", "shared/", "shared0", clientv3.PermissionType(clientv3.PermReadWrite)))
	var actors []*actor
	for i := range actingUsers {
		a := &actor{name: fmt.Sprint("u", i), endpoint: endpoint, acked: map[string]string{}, refused: map[string]string{}, unsure: map[string]string{}}
		first := "first"
		a.password.Store(&first)
		do(c.UserAdd(ctx, a.name, first))
		do(c.RoleAdd(ctx, "role of "+a.name))
		prefix := "own/" + a.name + "/"
		do(c.RoleGrantPermission(ctx, "role of "+a.name, prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite)))
		do(c.UserGrantRole(ctx, a.name, "role of "+a.name))
		actors = append(actors, a)
	}
	do(c.AuthEnable(ctx))
	return actors
}

// TestUsersAtOnce: several users write at once while an administrator changes roles and passwords. What was
// acknowledged is there, what was refused is not, and nobody is refused what was never forbidden.
func TestUsersAtOnce(t *testing.T) {
	server := harness.Start(t, harness.Subject(), harness.Options{NoFsync: true, Args: []string{"--bcrypt-cost=4"}})
	first, ctx := newClient(t, server.Endpoint())
	actors := population(ctx, t, first, server.Endpoint())
	root, err := clientv3.New(clientv3.Config{Context: ctx, Endpoints: []string{server.Endpoint()}, Username: "root", Password: "root's",
		DialTimeout: testDeadline, Logger: zap.NewNop()})
	must(t, err)
	defer root.Close()

	done := make(chan struct{})
	errs := make(chan error, len(actors)+1)
	var all, writers sync.WaitGroup
	for _, a := range actors {
		writers.Go(func() { errs <- a.run(ctx) })
	}
	all.Go(func() { errs <- administrate(ctx, root, actors, done) })
	writers.Wait()
	close(done)
	all.Wait()
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	checkWrites(ctx, t, root, actors)
	if last, died := server.Died(); died {
		t.Errorf("the member has ended:\n%s", last)
	}
}

// checkWrites reads everything as root.
func checkWrites(ctx context.Context, t *testing.T, root *clientv3.Client, actors []*actor) {
	t.Helper()
	resp, err := root.Get(ctx, "", clientv3.WithPrefix())
	must(t, err)
	stored := map[string]string{}
	for _, kv := range resp.Kvs {
		stored[string(kv.Key)] = string(kv.Value)
	}
	acked, refused, unsure := 0, 0, 0
	for _, a := range actors {
		for key, value := range a.acked {
			if got, ok := stored[key]; !ok || got != value {
				t.Errorf("%s was acknowledged with %q and is %q", key, value, got)
			}
			delete(stored, key)
		}
		for key := range a.refused {
			if got, ok := stored[key]; ok {
				t.Errorf("%s was refused and is %q", key, got)
			}
		}
		for key := range a.unsure {
			delete(stored, key)
		}
		acked, refused, unsure = acked+len(a.acked), refused+len(a.refused), unsure+len(a.unsure)
	}
	for key := range stored {
		t.Errorf("%s is there and nobody wrote it", key)
	}
	t.Logf("%d writes acknowledged, %d refused, %d unsure", acked, refused, unsure)
	own, secret := actingUsers*writesOfOne/2, actingUsers*writesOfOne
	if acked < own || refused < secret {
		t.Errorf("%d writes acknowledged and %d refused, want at least %d and %d", acked, refused, own, secret)
	}
}
