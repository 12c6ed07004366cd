package membership

import (
	"cmp"
	"crypto/sha1"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Member is one member of the cluster. Its JSON is what etcd stores in its bucket of members, sends
// between peers, and carries as the context of a membership change.
type Member struct {
	ID       uint64   `json:"id"`
	PeerURLs []string `json:"peerURLs"`
	// IsLearner says that the member receives the log but has no vote.
	IsLearner bool `json:"isLearner,omitempty"`
	// Name and ClientURLs are empty until the member has started and published them.
	Name       string   `json:"name,omitempty"`
	ClientURLs []string `json:"clientURLs,omitempty"`
}

// Started reports whether the member has ever published its name.
func (m Member) Started() bool { return m.Name != "" }

// NewMember returns a member with a derived ID: the first 8 bytes, big-endian, of the SHA-1 of its sorted
// peer URLs, the token and, if now is given, the decimal Unix seconds. Members of an initial cluster take
// the cluster's token and no time, so that each of them computes the same IDs; a member added later takes
// the time and no token, so that the same URLs get a new ID after a removal.
func NewMember(name string, peerURLs []string, token string, isLearner bool, now *time.Time) Member {
	urls := slices.Clone(peerURLs)
	slices.Sort(urls)
	text := strings.Join(urls, "") + token
	if now != nil {
		text += strconv.FormatInt(now.Unix(), 10)
	}
	sum := sha1.Sum([]byte(text))
	return Member{ID: binary.BigEndian.Uint64(sum[:]), PeerURLs: urls, IsLearner: isLearner, Name: name}
}

// ClusterID derives the ID of a cluster from its initial members, in any order: the first 8 bytes,
// big-endian, of the SHA-1 of their ascending IDs, each in 8 bytes big-endian.
func ClusterID(members []Member) uint64 {
	ids := make([]uint64, 0, len(members))
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	var text []byte
	for _, id := range ids {
		text = binary.BigEndian.AppendUint64(text, id)
	}
	sum := sha1.Sum(text)
	return binary.BigEndian.Uint64(sum[:])
}

func byID(m Member, id uint64) int { return cmp.Compare(m.ID, id) }

// Kind is the kind of a membership change; its values are those of raftpb.ConfChangeType.
type Kind int32

// The kinds of changes. A learner is promoted by an AddNode whose context says so.
const (
	AddNode Kind = iota
	RemoveNode
	UpdateNode
	AddLearnerNode
)

// Change is one membership change, as read from the log by ParseChange.
type Change struct {
	Kind Kind
	// ID is the member that is changed; for an AddNode or UpdateNode also Member.ID.
	ID uint64
	// Member is what AddNode, AddLearnerNode and UpdateNode bring.
	Member Member
	// Promote turns an AddNode into the promotion of the learner ID.
	Promote bool
}

// changeContext is the JSON that goes with a change that adds or promotes a member.
type changeContext struct {
	Member
	IsPromote bool `json:"isPromote"`
}

// Context returns the bytes that belong into the context of the raft message for c, nil for RemoveNode.
func (c Change) Context() ([]byte, error) {
	switch c.Kind {
	case RemoveNode:
		return nil, nil
	case UpdateNode:
		return encode(c.Member)
	default:
		return encode(changeContext{c.Member, c.Promote})
	}
}

func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("membership: encode: %w", err)
	}
	return b, nil
}

// ParseContext reads the context of a committed membership change. The context of an update has no
// promotion flag, which reads as false. Its error is ErrCorrupt.
func ParseContext(context []byte) (m Member, isPromote bool, err error) {
	var c changeContext
	if err := json.Unmarshal(context, &c); err != nil {
		return Member{}, false, fmt.Errorf("%w: context of a membership change: %w", ErrCorrupt, err)
	}
	return c.Member, c.IsPromote, nil
}

// ParseChange reads a committed membership change of raft. The initial members of a cluster come as
// AddNode changes too.
//
// Its errors are ErrCorrupt: the log is not what a member of this kind wrote, and the member must stop.
func ParseChange(kind Kind, id uint64, context []byte) (Change, error) {
	c := Change{Kind: kind, ID: id}
	switch kind {
	case RemoveNode:
		return c, nil
	case AddNode, AddLearnerNode, UpdateNode:
	default:
		return Change{}, fmt.Errorf("%w: membership change of unknown kind %d for member %x", ErrCorrupt, kind, id)
	}
	m, promote, err := ParseContext(context)
	if err != nil {
		return Change{}, err
	}
	c.Member, c.Promote = m, promote && kind != UpdateNode
	if c.Member.ID != id {
		return Change{}, fmt.Errorf("%w: membership change for member %x carries member %x", ErrCorrupt, id, c.Member.ID)
	}
	return c, nil
}
