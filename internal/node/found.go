package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/membership"
)

// found is a cluster as one of its members tells of it.
type found struct {
	url     string // where it was asked
	id      uint64
	members []membership.Member
}

func (n *newcomer) whoIsAt(ctx context.Context, url string, patience time.Duration) (found, error) {
	members, cluster, err := n.asking(patience).membersOf(ctx, url)
	return found{url: url, id: cluster, members: members}, err
}

// nameOf says which member it is, and where.
func nameOf(m membership.Member) string {
	text := "member " + types.ID(m.ID).String()
	if m.Name != "" {
		text += " (" + m.Name + ")"
	}
	return text + " at " + strings.Join(m.PeerURLs, ",")
}

func (f found) list() string {
	texts := make([]string, 0, len(f.members))
	for _, m := range f.members {
		texts = append(texts, types.ID(m.ID).String()+"="+strings.Join(m.PeerURLs, ","))
	}
	return "[" + strings.Join(texts, " ") + "]"
}

// hasRun says whether a member has published itself. The names of founders are known before that.
func hasRun(m membership.Member) bool { return len(m.ClientURLs) > 0 }

func (f found) learners() (n int) {
	for _, m := range f.members {
		if m.IsLearner {
			n++
		}
	}
	return n
}

func tooManyLearners(learners, most int) error {
	return fmt.Errorf("membership: too many learner members in cluster: it has %d, and --max-learners=%d allows no more than that; "+
		"give all members the same --max-learners", learners, most)
}

// difference says which members are told of on one side only, and what to do.
func (f found) difference(told founders) string {
	at := func(list []membership.Member, m membership.Member) bool {
		return slices.ContainsFunc(list, func(o membership.Member) bool { return slices.Equal(sorted(o.PeerURLs), sorted(m.PeerURLs)) })
	}
	var parts []string
	for _, m := range f.members {
		if !at(told.members, m) {
			parts = append(parts, "--initial-cluster lacks "+nameOf(m))
		}
	}
	for _, m := range told.members {
		if !at(f.members, m) {
			parts = append(parts, "the cluster lacks "+m.Name+"="+strings.Join(m.PeerURLs, ","))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "both have the same URLs")
	}
	return strings.Join(parts, ", ") + `; give --initial-cluster as "member add" has printed it, after all members are added or removed`
}

// bootstrapped refuses a member that has run before: the others remember what it has forgotten, as its votes.
func bootstrapped(m membership.Member, url string) error {
	return fmt.Errorf("member %s has already been bootstrapped: %s knows it as %q with data of its own; give the --data-dir and --wal-dir "+
		"that it had, or if they are lost remove the member, add it again and start it with --initial-cluster-state=existing",
		types.ID(m.ID), url, m.Name)
}

var errClusterID = errors.New("cluster ID mismatch")

// admits reports why a member that is told to found a cluster with this one cannot: because that one has run for a
// while, or is another one (errClusterID). A cluster that is being founded at this moment admits its members.
func (f found) admits(told founders) error {
	self, listed := f.member(told.self.ID)
	ours := membership.ClusterID(told.members)
	switch {
	case listed && hasRun(self):
		return bootstrapped(self, f.url)
	case f.id == ours && !listed && slices.ContainsFunc(f.members, hasRun):
		return fmt.Errorf("member %s=%s with ID %s is no member of the cluster any more, as %s says: it was removed, and its ID never comes back; "+
			"add it again and start it with --initial-cluster-state=existing and an empty data directory",
			told.self.Name, strings.Join(told.self.PeerURLs, ","), types.ID(told.self.ID), f.url)
	case f.id == ours:
		return nil
	}
	return fmt.Errorf("%w: %s is of cluster %s, but --initial-cluster=%s with --initial-cluster-token=%s makes cluster %s: %s",
		errClusterID, f.url, types.ID(f.id), told, told.token, types.ID(ours), f.whyOther(told))
}

// whyOther guesses why the cluster is another one, by its members.
func (f found) whyOther(told founders) string {
	for _, m := range f.members {
		// Only one that was added has no name.
		if !m.Started() && slices.Equal(sorted(m.PeerURLs), told.self.PeerURLs) {
			return fmt.Sprintf("this member was added to it as %s; start it with --initial-cluster-state=existing", nameOf(m))
		}
	}
	if len(f.members) == 0 {
		return "give all members the same --initial-cluster and the same --initial-cluster-token"
	}
	same := len(f.members) == len(told.members) && !slices.ContainsFunc(f.members, func(m membership.Member) bool {
		return !slices.ContainsFunc(told.members, func(t membership.Member) bool { return slices.Equal(sorted(m.PeerURLs), t.PeerURLs) })
	})
	if same {
		return "the URLs are the same, so the tokens differ, or members were replaced since it began; " +
			"give all members the same --initial-cluster-token, or join it with --initial-cluster-state=existing"
	}
	return "its members are others: " + f.difference(told)
}

func (f found) member(id uint64) (membership.Member, bool) {
	for _, m := range f.members {
		if m.ID == id {
			return m, true
		}
	}
	return membership.Member{}, false
}

// checkRestarted says what the cluster knows of this member otherwise than its flags do. The flags for a new cluster
// count no more, and what is no mistake in them must not keep a member from starting.
func (m *Member) checkRestarted() error {
	v := m.state.View()
	defer v.Release()
	if learners := (found{members: v.Members.Members()}).learners(); learners > m.cfg.MaxLearners {
		return tooManyLearners(learners, m.cfg.MaxLearners)
	}
	self, known := v.Members.Member(m.id.member)
	advertised := sorted(texts(m.cfg.AdvertisePeerURLs))
	if !known || slices.Equal(sorted(self.PeerURLs), advertised) ||
		slices.Equal(advertised, texts(config.Default().AdvertisePeerURLs)) {
		return nil
	}
	m.lg.Warn("other members reach this one at other URLs than --initial-advertise-peer-urls, which counts only for a new member; "+
		`change them with "member update", or give the --data-dir of this member`,
		zap.Stringer("local-member-id", types.ID(self.ID)), zap.String("known-as", self.Name),
		zap.Strings("peer-urls", self.PeerURLs), zap.Strings("initial-advertise-peer-urls", advertised))
	return nil
}
