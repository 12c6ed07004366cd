package peer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// Record is a member as a snapshot's message tells of it.
type Record struct {
	ID         uint64
	PeerURLs   []string
	IsLearner  bool
	Name       string
	ClientURLs []string
}

// storeNode is a key of etcd's v2 store, or with Children a directory of keys.
type storeNode struct {
	Path                        string
	CreatedIndex, ModifiedIndex uint64
	ExpireTime                  string
	Value                       string
	Children                    map[string]*storeNode
}

// v2Store is a v2 store as etcd writes it. What it holds besides, counters and an empty history, etcd makes anew
// where it is left out.
type v2Store struct {
	Root           *storeNode
	CurrentIndex   uint64
	CurrentVersion int
	// Dolmen is what only members of our kind write and read: etcd's leave out what they do not know, and keep a store
	// of their own making.
	Dolmen *extras `json:",omitempty"`
}

// extras is what the message of a snapshot says of the database that follows.
type extras struct {
	SHA256 string // of the whole file, in hexadecimal
}

const (
	neverExpires = "0001-01-01T00:00:00Z"
	storeVersion = 2
)

func newDirectory(at string) *storeNode {
	return &storeNode{Path: at, ExpireTime: neverExpires, Children: map[string]*storeNode{}}
}

// set makes a key and the directories above it.
func (s *v2Store) set(key, value string) {
	s.CurrentIndex++
	parts := strings.Split(strings.Trim(key, "/"), "/")
	at := s.Root
	for _, name := range parts[:len(parts)-1] {
		next := at.Children[name]
		if next == nil {
			next = newDirectory(path.Join(at.Path, name))
			next.CreatedIndex, next.ModifiedIndex = s.CurrentIndex, s.CurrentIndex
			at.Children[name] = next
		}
		at = next
	}
	at.Children[parts[len(parts)-1]] = &storeNode{
		Path: key, CreatedIndex: s.CurrentIndex, ModifiedIndex: s.CurrentIndex, ExpireTime: neverExpires, Value: value,
	}
}

// Membership encodes who the members are, who was removed, and the cluster's version, as etcd's members expect it in
// the message of a snapshot: a v2 store with the keys below /0. sum is the SHA-256 of the database that goes with the
// message, which etcd's members do not notice.
func Membership(members []Record, removed []uint64, version string, sum [sha256.Size]byte) ([]byte, error) {
	s := &v2Store{Root: newDirectory("/"), CurrentVersion: storeVersion, Dolmen: &extras{SHA256: hex.EncodeToString(sum[:])}}
	s.Root.Children["0"], s.Root.Children["1"] = newDirectory("/0"), newDirectory("/1")
	for _, m := range members {
		at := path.Join("/0/members", types.ID(m.ID).String())
		attributes, err := json.Marshal(struct {
			PeerURLs  []string `json:"peerURLs"`
			IsLearner bool     `json:"isLearner,omitempty"`
		}{m.PeerURLs, m.IsLearner})
		if err != nil {
			return nil, fmt.Errorf("peer: encode the membership: %w", err)
		}
		s.set(path.Join(at, "raftAttributes"), string(attributes))
		if m.ClientURLs == nil {
			continue // it has not started
		}
		attributes, err = json.Marshal(struct {
			Name       string   `json:"name,omitempty"`
			ClientURLs []string `json:"clientURLs,omitempty"`
		}{m.Name, m.ClientURLs})
		if err != nil {
			return nil, fmt.Errorf("peer: encode the membership: %w", err)
		}
		s.set(path.Join(at, "attributes"), string(attributes))
	}
	for _, id := range removed {
		s.set(path.Join("/0/removed_members", types.ID(id).String()), "")
	}
	if version != "" {
		s.set("/0/version", version)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("peer: encode the membership: %w", err)
	}
	return b, nil
}

// ErrMessage says that what the message of a snapshot tells cannot be read.
var ErrMessage = errors.New("peer: the message of the snapshot is damaged")

// Sum returns the SHA-256 that a message of Membership tells. found is false if there is none, as in those of etcd's
// members: ours always write one, so its absence says whose message it is.
func Sum(data []byte) (sum [sha256.Size]byte, found bool, err error) {
	var s struct{ Dolmen *extras }
	if err := json.Unmarshal(data, &s); err != nil {
		return sum, false, fmt.Errorf("%w: %w", ErrMessage, err)
	}
	if s.Dolmen == nil {
		return sum, false, nil
	}
	b, err := hex.DecodeString(s.Dolmen.SHA256)
	if err != nil || len(b) != len(sum) {
		return sum, true, fmt.Errorf("%w: %.80q is no SHA-256", ErrMessage, s.Dolmen.SHA256)
	}
	return [sha256.Size]byte(b), true, nil
}
