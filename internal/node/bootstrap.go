package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/netutil"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/consensus"
	"github.com/dolmen-io/dolmen/internal/membership"
	"github.com/dolmen-io/dolmen/internal/state"
	"github.com/dolmen-io/dolmen/internal/wal"
)

// identity is who this member is. It is fixed when the log is created.
type identity struct{ member, cluster uint64 }

// origin is what a member starts from: who it is, what consensus begins with, and whom it knew before its log said so.
type origin struct {
	id        identity
	founders  []membership.Member
	consensus consensus.Config
	reopened  bool // the log was there before
}

// openLog opens the raft log, or makes it for a member of a new cluster or for one that joins, and returns what the
// member starts from.
func openLog(ctx context.Context, n *newcomer, d disk, applied state.Applied) (origin, error) {
	if d.hasLog() {
		return reopenLog(ctx, n, d, applied)
	}
	if applied.Index != 0 {
		return origin{}, fmt.Errorf(
			"%w: the engine has applied index %d but there is no raft log in %s; give the --wal-dir that the member had, or restore it from a backup",
			ErrMismatch, applied.Index, walDirectory(n.cfg))
	}
	told, err := n.initial(ctx)
	if err != nil {
		return origin{}, err
	}
	if n.cfg.InitialClusterState == config.ClusterExisting {
		return n.join(ctx, d, told)
	}
	return n.found(ctx, d, told)
}

// join makes the log of a member of a cluster that is there.
func (n *newcomer) join(ctx context.Context, d disk, told founders) (o origin, err error) {
	if err := told.checkDuplicates(); err != nil {
		return origin{}, err
	}
	if o.id, o.founders, err = n.existing(ctx, told); err != nil {
		return origin{}, err
	}
	return o, o.createLog(d)
}

// found makes the log of a member of a new cluster.
func (n *newcomer) found(ctx context.Context, d disk, told founders) (o origin, err error) {
	if n.cfg.Discovery.SRVDomain == "" { // else the addresses have been compared
		err = told.checkAdvertised(ctx, n.cfg, n.lg)
	}
	if err == nil {
		err = told.checkDuplicates()
	}
	if err != nil {
		return origin{}, err
	}
	if err := n.checkNew(ctx, told); err != nil {
		return origin{}, err
	}
	o.id, o.founders = identity{member: told.self.ID, cluster: membership.ClusterID(told.members)}, told.members
	if o.consensus.Bootstrap, err = bootstrapPeers(told.members); err != nil {
		return origin{}, err
	}
	return o, o.createLog(d)
}

func (o *origin) createLog(d disk) (err error) {
	o.consensus.ID = o.id.member
	o.consensus.Log, err = d.createLog(wal.Metadata{NodeID: o.id.member, ClusterID: o.id.cluster})
	return err
}

func reopenLog(ctx context.Context, n *newcomer, d disk, applied state.Applied) (origin, error) {
	log, restored, err := d.openLog(applied.Index)
	if err != nil {
		return origin{}, err
	}
	o := origin{reopened: true, id: identity{member: restored.Metadata.NodeID, cluster: restored.Metadata.ClusterID}}
	o.consensus = consensus.Config{
		ID: o.id.member, Log: log, HardState: restored.HardState, Entries: restored.Entries,
		First:     consensus.First{Index: restored.Mark.Index, Term: restored.Mark.Term},
		Applied:   applied.Index,
		ConfState: applied.Conf,
	}
	told, err := n.initialAgain(ctx, restored.HardState == nil)
	if err != nil {
		return origin{}, errors.Join(err, log.Close())
	}
	if n.cfg.InitialClusterState == config.ClusterExisting || membership.ClusterID(told.members) != o.id.cluster {
		return o, nil // it has joined a cluster that others began
	}
	// Only for a member whose very first write was torn: it starts its cluster again.
	o.founders = told.members
	if o.consensus.Bootstrap, err = bootstrapPeers(told.members); err != nil {
		return origin{}, errors.Join(err, log.Close())
	}
	return o, nil
}

// founders are the members that --initial-cluster or a discovery tells of, by ascending ID: as in etcd each of them writes
// the beginning of the log by itself, and all must write the same.
type founders struct {
	members []membership.Member
	self    membership.Member
	token   string
}

// initialMembers returns the members of --initial-cluster and which of them is this one.
func initialMembers(cfg *config.Config) (founders, error) {
	urls, err := cfg.InitialMembers()
	if err != nil {
		return founders{}, fmt.Errorf("read --initial-cluster: %w", err)
	}
	return newFounders(cfg.Name, urls, cfg.InitialClusterToken)
}

func newFounders(name string, urls types.URLsMap, token string) (f founders, err error) {
	f.token = token
	for named, peers := range urls {
		m := membership.NewMember(named, peers.StringSlice(), token, false, nil)
		f.members = append(f.members, m)
		if named == name {
			f.self = m
		}
	}
	slices.SortFunc(f.members, func(a, b membership.Member) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), strings.Compare(a.Name, b.Name))
	})
	if f.self.ID == 0 {
		return f, fmt.Errorf("couldn't find local name %q in the initial cluster configuration, which has %s; "+
			"give --name as it is called there, or correct --initial-cluster", name, f)
	}
	return f, nil
}

// String is what --initial-cluster says, by name.
func (f founders) String() string {
	var parts []string
	for _, m := range f.members {
		for _, u := range m.PeerURLs {
			parts = append(parts, m.Name+"="+u)
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}

// checkDuplicates refuses a URL that is given twice: two members cannot be reached there.
func (f founders) checkDuplicates() error {
	seen := map[string]string{}
	for _, m := range f.members {
		for _, u := range m.PeerURLs {
			if other, found := seen[u]; found {
				return fmt.Errorf("initial cluster %s has duplicate url: %s is that of %q and of %q; each member needs one of its own",
					f, u, other, m.Name)
			}
			seen[u] = m.Name
		}
	}
	return nil
}

// checkAdvertised refuses peer URLs that are not those that the other members are told: they would compute another ID.
// Names in URLs are resolved.
func (f founders) checkAdvertised(ctx context.Context, cfg *config.Config, lg *zap.Logger) error {
	advertised := sorted(texts(cfg.AdvertisePeerURLs))
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	same, reason := netutil.URLStringsEqual(ctx, lg, advertised, f.self.PeerURLs)
	if same {
		return nil
	}
	named := func(urls []string) string {
		list := make([]string, 0, len(urls))
		for _, u := range urls {
			list = append(list, cfg.Name+"="+u)
		}
		return strings.Join(list, ",")
	}
	const advice = "make the two the same, with the same --initial-cluster on all members"
	if missing := without(f.self.PeerURLs, advertised); len(missing) > 0 {
		return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (%w); %s",
			named(missing), strings.Join(advertised, ","), reason, advice)
	}
	if missing := without(advertised, f.self.PeerURLs); len(missing) > 0 {
		return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s; %s",
			strings.Join(missing, ","), named(f.self.PeerURLs), advice)
	}
	return fmt.Errorf("failed to resolve %s to match --initial-cluster=%s (%w); %s",
		strings.Join(advertised, ","), named(f.self.PeerURLs), reason, advice)
}

// without returns what is in one list and not in the other.
func without(list, other []string) (left []string) {
	for _, s := range list {
		if !slices.Contains(other, s) {
			left = append(left, s)
		}
	}
	return left
}

// bootstrapPeers returns the initial members as raft writes them to the beginning of the log. Their
// names are published later, when each has started.
func bootstrapPeers(members []membership.Member) ([]consensus.Peer, error) {
	peers := make([]consensus.Peer, 0, len(members))
	for _, m := range members {
		context, err := membership.Change{Kind: membership.UpdateNode, Member: m}.Context()
		if err != nil {
			return nil, err
		}
		peers = append(peers, consensus.Peer{ID: m.ID, Context: context})
	}
	return peers, nil
}
