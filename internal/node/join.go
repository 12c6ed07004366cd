package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/netutil"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/discovery"
	"github.com/dolmen-io/dolmen/internal/membership"
)

const (
	// joinPatience is how long one URL of an existing cluster may take to say who its members are, and foundPatience
	// how long one of a new cluster's may: etcd's figures.
	joinPatience  = 10 * time.Second
	foundPatience = time.Second
	// resolvePatience bounds the look-up of names while URLs are compared.
	resolvePatience = 30 * time.Second
)

// newcomer is a member without a log, with what it needs to learn from others.
type newcomer struct {
	cfg *config.Config
	lg  *zap.Logger
	// client reaches other members, resolver what --discovery-srv names.
	client   *http.Client
	resolver discovery.Resolver
}

func (n *newcomer) asking(patience time.Duration) *questions {
	return &questions{patience: patience, client: n.client, limit: maxAnswer}
}

// existing says who this member is in the cluster that it is to join, and who the others are. It must have been added
// before.
func (n *newcomer) existing(ctx context.Context, told founders) (identity, []membership.Member, error) {
	there, err := n.findCluster(ctx, told)
	if err != nil {
		return identity{}, nil, fmt.Errorf("cannot fetch cluster info from peer urls: %w", err)
	}
	self, err := n.match(ctx, told, there)
	if err != nil {
		return identity{}, nil, fmt.Errorf("error validating peerURLs %s: %w", there.list(), err)
	}
	if hasRun(self) {
		return identity{}, nil, bootstrapped(self, there.url)
	}
	if learners := there.learners(); learners > n.cfg.MaxLearners {
		return identity{}, nil, tooManyLearners(learners, n.cfg.MaxLearners)
	}
	if err := n.compatible(ctx, there.members, self.ID); err != nil {
		return identity{}, nil, fmt.Errorf("incompatible with current running cluster: %w", err)
	}
	return identity{member: self.ID, cluster: there.id}, there.members, nil
}

// otherURLs are the peer URLs of all members but this one, in order.
func (f founders) otherURLs() (urls []string) {
	for _, m := range f.members {
		if m.ID != f.self.ID {
			urls = append(urls, m.PeerURLs...)
		}
	}
	slices.Sort(urls)
	return urls
}

func (n *newcomer) findCluster(ctx context.Context, told founders) (found, error) {
	const none = "could not retrieve cluster information from the given URLs"
	urls := told.otherURLs()
	if len(urls) == 0 {
		return found{}, fmt.Errorf("%s: --initial-cluster=%s has this member alone; add one that runs", none, told)
	}
	var reasons []error
	for _, url := range urls {
		there, err := n.whoIsAt(ctx, url, joinPatience)
		if err != nil {
			n.lg.Warn("failed to get cluster response", zap.String("address", url+"/members"), zap.Error(err))
			reasons = append(reasons, err)
			continue
		}
		if len(there.members) == 0 {
			return found{}, fmt.Errorf("failed to get raft cluster member(s) from the given URLs: %s knows no member yet; try again", url)
		}
		return there, nil
	}
	return found{}, fmt.Errorf("%s: no other member of --initial-cluster=%s has answered; start one, or correct the URLs: %w",
		none, told, errors.Join(reasons...))
}

// match compares the members that this one was told of with those of the cluster, by their peer URLs, and returns this
// member as it is known there.
func (n *newcomer) match(ctx context.Context, told founders, there found) (self membership.Member, err error) {
	if len(told.members) != len(there.members) {
		return self, fmt.Errorf("member count is unequal: %s says that the cluster has %d members, --initial-cluster has %d: %s",
			there.url, len(there.members), len(told.members), there.difference(told))
	}
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	for _, m := range there.members {
		var reason error
		at := slices.IndexFunc(told.members, func(t membership.Member) bool {
			same, err := netutil.URLStringsEqual(ctx, n.lg, sorted(m.PeerURLs), t.PeerURLs)
			reason = err
			return same
		})
		if at < 0 {
			return self, fmt.Errorf("unmatched member while checking PeerURLs: no match found for existing member (%s, %v), "+
				"last resolver error (%v), as %s tells: %s", types.ID(m.ID), m.PeerURLs, reason, there.url, there.difference(told))
		}
		if told.members[at].Name == told.self.Name {
			self = m
		}
	}
	if self.ID == 0 {
		return self, fmt.Errorf("unmatched member while checking PeerURLs: %s says that %s=%s is no member of the cluster: %s",
			there.url, told.self.Name, strings.Join(told.self.PeerURLs, ","), there.difference(told))
	}
	return self, nil
}

func sorted(urls []string) []string {
	urls = slices.Clone(urls)
	slices.Sort(urls)
	return urls
}

// compatible refuses to join a cluster of a version that this program does not serve: by what at least one member says
// of it, and none contradicts.
func (n *newcomer) compatible(ctx context.Context, members []membership.Member, self uint64) error {
	var reasons []error
	known := false
	for _, m := range members {
		if m.ID == self {
			continue
		}
		_, cluster, err := n.asking(foundPatience).versionsOf(ctx, m.PeerURLs)
		if err != nil {
			n.lg.Warn("failed to get version of a member", zap.Stringer("remote-member-id", types.ID(m.ID)), zap.Error(err))
			reasons = append(reasons, fmt.Errorf("%s: %w", nameOf(m), err))
			continue
		}
		if cluster == "not_decided" {
			reasons = append(reasons, fmt.Errorf("%s says that the cluster has not decided its version yet", nameOf(m)))
			continue
		}
		if !membership.Serves(serverVersion, cluster) {
			return fmt.Errorf("%s says that the cluster has version %s, which this program of version %s does not serve; "+
				"use a program of that version, or downgrade the cluster first", nameOf(m), cluster, serverVersion)
		}
		known = true
	}
	if known {
		return nil
	}
	return fmt.Errorf("no member of it could be asked for its version, which must be one that this program of version %s serves; "+
		"try again when one runs: %w", serverVersion, errors.Join(reasons...))
}

// checkNew refuses to found a cluster where one of the others is in it already. One that is in another cluster is no reason
// against it, as in etcd: an operator who has lost a cluster's data founds it anew at the same URLs, under another token, and
// stops what is left of the old one. But then nobody hears of the other, so the log says it.
func (n *newcomer) checkNew(ctx context.Context, told founders) error {
	for _, url := range told.otherURLs() {
		there, err := n.whoIsAt(ctx, url, foundPatience)
		if err != nil {
			continue // it has not begun, as usual
		}
		switch err := there.admits(told); {
		case errors.Is(err, errClusterID):
			n.lg.Warn("a member of --initial-cluster is of another cluster; none is founded with it until it is started anew", zap.Error(err))
		case err != nil:
			return err
		}
	}
	return nil
}
