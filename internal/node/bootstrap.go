package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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
	members, self, err := initialMembers(n.cfg)
	if d.hasLog() {
		return reopenLog(n.cfg, d, applied, members)
	}
	if applied.Index != 0 {
		return origin{}, fmt.Errorf(
			"%w: the engine has applied index %d but there is no raft log in %s; give the --wal-dir that the member had, or restore it from a backup",
			ErrMismatch, applied.Index, walDirectory(n.cfg))
	}
	if err != nil {
		return origin{}, err
	}
	var o origin
	if n.cfg.InitialClusterState == config.ClusterExisting {
		o.id, o.founders, err = n.existing(ctx, members, self)
	} else {
		o.id, o.founders = identity{member: self.ID, cluster: membership.ClusterID(members)}, members
		err = n.checkNew(ctx, members, self)
	}
	if err != nil {
		return origin{}, err
	}
	log, err := d.createLog(wal.Metadata{NodeID: o.id.member, ClusterID: o.id.cluster})
	if err != nil {
		return origin{}, err
	}
	o.consensus = consensus.Config{ID: o.id.member, Log: log}
	if n.cfg.InitialClusterState != config.ClusterExisting {
		if o.consensus.Bootstrap, err = bootstrapPeers(members); err != nil {
			return origin{}, errors.Join(err, log.Close())
		}
	}
	return o, nil
}

func reopenLog(cfg *config.Config, d disk, applied state.Applied, members []membership.Member) (origin, error) {
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
	if cfg.InitialClusterState == config.ClusterExisting || membership.ClusterID(members) != o.id.cluster {
		return o, nil // it has joined a cluster that others began
	}
	// Only for a member whose very first write was torn: it starts its cluster again.
	o.founders = members
	if o.consensus.Bootstrap, err = bootstrapPeers(members); err != nil {
		return origin{}, errors.Join(err, log.Close())
	}
	return o, nil
}

// initialMembers returns the members of the initial cluster and which of them is this one.
func initialMembers(cfg *config.Config) (members []membership.Member, self membership.Member, err error) {
	urls, err := cfg.InitialMembers()
	if err != nil {
		return nil, self, fmt.Errorf("read --initial-cluster: %w", err)
	}
	for name, peers := range urls {
		m := membership.NewMember(name, peers.StringSlice(), cfg.InitialClusterToken, false, nil)
		members = append(members, m)
		if name == cfg.Name {
			self = m
		}
	}
	if self.ID == 0 {
		return nil, self, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", cfg.Name)
	}
	// As etcd's members do: each writes the beginning of the log by itself, and all must write the same.
	slices.SortFunc(members, func(a, b membership.Member) int { return cmp.Compare(a.ID, b.ID) })
	if cfg.InitialClusterState == config.ClusterExisting {
		return members, self, nil // the cluster knows its URLs
	}
	advertised := make([]string, 0, len(cfg.AdvertisePeerURLs))
	for _, u := range cfg.AdvertisePeerURLs {
		advertised = append(advertised, u.String())
	}
	slices.Sort(advertised)
	if !slices.Equal(advertised, self.PeerURLs) {
		return nil, self, fmt.Errorf("--initial-cluster has %s=%s but --initial-advertise-peer-urls is %s",
			cfg.Name, strings.Join(self.PeerURLs, ","), strings.Join(advertised, ","))
	}
	return members, self, nil
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
