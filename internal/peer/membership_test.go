package peer

import (
	"crypto/sha256"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMembership(t *testing.T) {
	b, err := Membership([]Record{
		{ID: 10, PeerURLs: []string{"http://a:1"}, Name: "a", ClientURLs: []string{"http://a:2"}},
		{ID: 11, PeerURLs: []string{"http://b:1"}, IsLearner: true},
	}, []uint64{12}, "3.7.0", [sha256.Size]byte{1, 2})
	require.NoError(t, err)
	var s v2Store
	require.NoError(t, json.Unmarshal(b, &s))
	require.Equal(t, 2, s.CurrentVersion)
	require.Equal(t, uint64(5), s.CurrentIndex)
	got := map[string]string{}
	var walk func(n *storeNode)
	walk = func(n *storeNode) {
		require.Equal(t, "0001-01-01T00:00:00Z", n.ExpireTime)
		require.LessOrEqual(t, n.ModifiedIndex, s.CurrentIndex)
		if n.Children == nil {
			got[n.Path] = n.Value
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(s.Root)
	require.Equal(t, map[string]string{
		"/0/members/a/raftAttributes": `{"peerURLs":["http://a:1"]}`,
		"/0/members/a/attributes":     `{"name":"a","clientURLs":["http://a:2"]}`,
		"/0/members/b/raftAttributes": `{"peerURLs":["http://b:1"],"isLearner":true}`,
		"/0/removed_members/c":        "",
		"/0/version":                  "3.7.0",
	}, got)
	require.NotNil(t, s.Root.Children["1"], "etcd has this directory too")
}

func TestSum(t *testing.T) {
	want := sha256.Sum256([]byte("a file"))
	b, err := Membership(nil, nil, "", want)
	require.NoError(t, err)
	got, found, err := Sum(b)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, want, got)

	_, found, err = Sum([]byte(`{"Root":{"Path":"/"},"Stats":{"getSuccess":1},"CurrentVersion":2}`))
	require.NoError(t, err)
	require.False(t, found, "etcd writes none")
	for _, text := range []string{"", "{", `{"Dolmen":{}}`, `{"Dolmen":{"SHA256":"00"}}`, `{"Dolmen":{"SHA256":"zz"}}`, `{"Dolmen":1}`} {
		_, _, err := Sum([]byte(text))
		require.ErrorIs(t, err, ErrMessage, text)
	}
}
