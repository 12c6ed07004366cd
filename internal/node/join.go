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
	// client reaches other members.
	client *http.Client
}

func (n *newcomer) asking(patience time.Duration) *questions {
	return &questions{patience: patience, client: n.client, limit: maxAnswer}
}

// existing says who this member is in the cluster that it is to join, and who the others are. It must have been added
// before.
func (n *newcomer) existing(ctx context.Context, members []membership.Member, self membership.Member) (identity, []membership.Member, error) {
	there, cluster, err := n.findCluster(ctx, otherURLs(members, self.Name))
	if err != nil {
		return identity{}, nil, fmt.Errorf("cannot fetch cluster info from peer urls: %w", err)
	}
	id, err := n.match(ctx, members, self, there)
	if err != nil {
		return identity{}, nil, fmt.Errorf("error validating peerURLs %s: %w", describe(there), err)
	}
	if !n.compatible(ctx, there, id) {
		return identity{}, nil, errors.New("incompatible with current running cluster: no member of it could be asked for its version, " +
			"or its version is not one that this program serves (" + serverVersion + ")")
	}
	return identity{member: id, cluster: cluster}, there, nil
}

// otherURLs are the peer URLs of all members but one, in order.
func otherURLs(members []membership.Member, name string) (urls []string) {
	for _, m := range members {
		if m.Name != name {
			urls = append(urls, m.PeerURLs...)
		}
	}
	slices.Sort(urls)
	return urls
}

func (n *newcomer) findCluster(ctx context.Context, urls []string) ([]membership.Member, uint64, error) {
	for _, url := range urls {
		members, cluster, err := n.asking(joinPatience).membersOf(ctx, url)
		if err != nil {
			n.lg.Warn("failed to get cluster response", zap.String("address", url+"/members"), zap.Error(err))
			continue
		}
		if len(members) == 0 {
			return nil, 0, fmt.Errorf("failed to get raft cluster member(s) from the given URLs: %s knows no member", url)
		}
		return members, cluster, nil
	}
	return nil, 0, errors.New("could not retrieve cluster information from the given URLs")
}

// match compares the members that this one was told of with those of the cluster, by their peer URLs, and returns the
// ID that this member has there.
func (n *newcomer) match(ctx context.Context, told []membership.Member, self membership.Member, there []membership.Member) (id uint64, err error) {
	if len(told) != len(there) {
		return 0, fmt.Errorf("member count is unequal: the cluster has %d members, --initial-cluster %d", len(there), len(told))
	}
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	for _, m := range there {
		var reason error
		at := slices.IndexFunc(told, func(t membership.Member) bool {
			same, err := netutil.URLStringsEqual(ctx, n.lg, sorted(m.PeerURLs), t.PeerURLs)
			reason = err
			return same
		})
		if at < 0 {
			return 0, fmt.Errorf("unmatched member while checking PeerURLs: no match found for existing member (%s, %s), last resolver error (%w)",
				types.ID(m.ID), strings.Join(m.PeerURLs, ","), errors.Join(reason))
		}
		if told[at].Name == self.Name {
			id = m.ID
		}
	}
	if id == 0 {
		return 0, fmt.Errorf("unmatched member while checking PeerURLs: %s=%s is no member of the cluster",
			self.Name, strings.Join(self.PeerURLs, ","))
	}
	return id, nil
}

func sorted(urls []string) []string {
	urls = slices.Clone(urls)
	slices.Sort(urls)
	return urls
}

func describe(members []membership.Member) string {
	var texts []string
	for _, m := range members {
		texts = append(texts, types.ID(m.ID).String()+"="+strings.Join(m.PeerURLs, ","))
	}
	return "[" + strings.Join(texts, " ") + "]"
}

// compatible reports whether this program may be a member of the cluster: by what at least one member says of its
// version, and none contradicts.
func (n *newcomer) compatible(ctx context.Context, members []membership.Member, self uint64) (known bool) {
	for _, m := range members {
		if m.ID == self {
			continue
		}
		_, cluster, err := n.asking(foundPatience).versionsOf(ctx, m.PeerURLs)
		if err != nil {
			n.lg.Warn("failed to get version of a member", zap.Stringer("remote-member-id", types.ID(m.ID)), zap.Error(err))
			continue
		}
		if cluster == "not_decided" {
			continue
		}
		if !membership.Serves(serverVersion, cluster) {
			n.lg.Warn("the cluster has a version that this member does not serve", zap.String("cluster-version", cluster),
				zap.String("local-member-server-version", serverVersion))
			return false
		}
		known = true
	}
	return known
}

// checkNew refuses to found a cluster in which this member has run before: the others remember what it has forgotten.
func (n *newcomer) checkNew(ctx context.Context, members []membership.Member, self membership.Member) error {
	for _, url := range otherURLs(members, self.Name) {
		there, _, err := n.asking(foundPatience).membersOf(ctx, url)
		if err != nil {
			continue // it has not begun, as usual
		}
		for _, m := range there {
			if m.ID == self.ID && len(m.ClientURLs) > 0 {
				return fmt.Errorf("member %s has already been bootstrapped: %s knows it; if its data is lost, remove it from the cluster, "+
					"add it again and start it with --initial-cluster-state=existing", types.ID(self.ID), url)
			}
		}
		return nil
	}
	return nil
}
