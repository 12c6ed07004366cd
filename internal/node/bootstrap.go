package node

import (
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

// openLog opens the raft log, or makes it for a member of a new cluster, and returns what consensus
// starts from.
func openLog(cfg *config.Config, d disk, applied state.Applied) (identity, consensus.Config, error) {
	members, self, err := initialMembers(cfg)
	if d.hasLog() {
		return reopenLog(d, applied, members)
	}
	if applied.Index != 0 {
		return identity{}, consensus.Config{}, fmt.Errorf(
			"%w: the engine has applied index %d but there is no raft log in %s; give the --wal-dir that the member had, or restore it from a backup",
			ErrMismatch, applied.Index, walDirectory(cfg))
	}
	if err != nil {
		return identity{}, consensus.Config{}, err
	}
	id := identity{member: self.ID, cluster: membership.ClusterID(members)}
	log, err := d.createLog(wal.Metadata{NodeID: id.member, ClusterID: id.cluster})
	if err != nil {
		return identity{}, consensus.Config{}, err
	}
	peers, err := bootstrapPeers(members)
	if err != nil {
		return identity{}, consensus.Config{}, errors.Join(err, log.Close())
	}
	return id, consensus.Config{ID: id.member, Log: log, Bootstrap: peers}, nil
}

func reopenLog(d disk, applied state.Applied, members []membership.Member) (identity, consensus.Config, error) {
	log, restored, err := d.openLog(applied.Index)
	if err != nil {
		return identity{}, consensus.Config{}, err
	}
	id := identity{member: restored.Metadata.NodeID, cluster: restored.Metadata.ClusterID}
	// Only for a member whose very first write was torn: it starts its cluster again.
	peers, err := bootstrapPeers(members)
	if err != nil {
		return identity{}, consensus.Config{}, errors.Join(err, log.Close())
	}
	return id, consensus.Config{
		ID: id.member, Log: log, HardState: restored.HardState, Entries: restored.Entries,
		First:     consensus.First{Index: restored.Mark.Index, Term: restored.Mark.Term},
		Applied:   applied.Index,
		ConfState: applied.Conf,
		Bootstrap: peers,
	}, nil
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
	slices.SortFunc(members, func(a, b membership.Member) int { return strings.Compare(a.Name, b.Name) })
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
