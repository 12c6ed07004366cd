package auth

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/internal/engine"
)

// Whatever happens, the table in memory is the one that a restart reads, permissions of all users included,
// and the revision says how many changes there were.
func TestRandomChangesSurviveRestart(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		e := open(t)
		table, err := load(t, e)
		require.NoError(t, err)
		var b engine.Batch
		pick := func(names ...string) string { return names[r.IntN(len(names))] }
		user := func() string { return pick("root", "u", "v") }
		role := func() string { return pick("root", "r", "s") }
		key := func() []byte { return []byte(pick("a", "b", "c", "")) }
		end := func() []byte { return []byte(pick("b", "c", "\x00", "")) }
		password := base64.StdEncoding.EncodeToString([]byte("hash"))
		for step := range 300 {
			b.Reset()
			before := table.Snapshot()
			switch r.IntN(12) {
			case 0:
				err = table.Enable(&b)
			case 1:
				if err = nil; r.IntN(4) == 0 {
					table.Disable(&b)
				}
			case 2:
				err = table.UserAdd(&b, user(), password, r.IntN(2) == 0)
			case 3:
				err = table.UserDelete(&b, user())
			case 4:
				err = table.UserChangePassword(&b, user(), password)
			case 5:
				err = table.UserRevokeRole(&b, user(), role())
			case 6, 7:
				err = table.UserGrantRole(&b, user(), role())
			case 8:
				err = table.RoleAdd(&b, role())
			case 9:
				if err = nil; r.IntN(3) == 0 {
					err = table.RoleDelete(&b, role())
				}
			case 10:
				err = table.RoleRevokePermission(&b, role(), key(), end())
			case 11:
				err = table.RoleGrantPermission(&b, role(), &Permission{Access(r.IntN(3)), key(), end()})
			}
			at := fmt.Sprintf("seed %d step %d", seed, step)
			now := table.Snapshot()
			if err != nil {
				require.Same(t, before, now, at)
				require.Zero(t, b.Len(), at)
				continue
			}
			turnedOn := now.enabled && !before.enabled
			changed := now != before && !turnedOn
			require.Equal(t, changed, now.Revision() == before.Revision()+1, at)
			require.Equal(t, now != before, b.Len() > 0, at)
			require.NoError(t, e.Commit(&b))
			again, err := load(t, e)
			require.NoError(t, err, at)
			require.Equal(t, dump(now), dump(again.Snapshot()), at)
			require.Equal(t, now.Revision(), again.Snapshot().Revision(), at)
		}
		require.Greater(t, table.Snapshot().Revision(), uint64(50))
	}
}

func FuzzRecords(f *testing.F) {
	u := &user{name: "name", password: []byte("hash"), roles: []string{"a", "b"}, noPassword: true}
	value, err := u.encode()
	require.NoError(f, err)
	f.Add(value)
	r := &role{name: "name", permissions: []Permission{{Write, []byte("k"), []byte{0}}, {7, nil, nil}}}
	value, err = r.encode()
	require.NoError(f, err)
	f.Add(value)
	f.Fuzz(func(t *testing.T, value []byte) {
		if u, err := decodeUser([]byte("name"), value); err == nil {
			v := &View{}
			v.link(u)
			again, err := u.encode()
			require.NoError(t, err)
			w, err := decodeUser([]byte("name"), again)
			require.NoError(t, err)
			v.link(w)
			require.Equal(t, u, w)
		} else {
			require.ErrorIs(t, err, ErrCorrupt)
		}
		if r, err := decodeRole([]byte("name"), value); err == nil {
			again, err := r.encode()
			require.NoError(t, err)
			s, err := decodeRole([]byte("name"), again)
			require.NoError(t, err)
			require.Equal(t, r, s)
			for i := 1; i < len(r.read); i++ {
				require.Less(t, string(r.read[i-1].hi), string(r.read[i].lo))
			}
		} else {
			require.ErrorIs(t, err, ErrCorrupt)
		}
	})
}

func FuzzTokens(f *testing.F) {
	for _, seed := range []string{"", "simple", "jwt,sign-method=RS256,priv-key=k,ttl=5m", "AAAAAAAAAAAAAAAA.7", "a.b.c"} {
		f.Add(seed)
	}
	o, err := ParseTokenOptions("jwt,sign-method=HS256,priv-key=k")
	require.NoError(f, err)
	signed, err := NewTokens(TokenConfig{Options: o, ReadFile: func(string) ([]byte, error) { return []byte("unknown"), nil }}, start())
	require.NoError(f, err)
	simple := newSimple(TokenConfig{})
	simple.Apply([]Change{login("u", "known", 7)}, start())
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := ParseTokenOptions(text); err != nil {
			require.ErrorIs(t, err, ErrInvalidOptions)
		}
		_, err := signed.Identify(text, 1, start())
		require.ErrorIs(t, err, ErrInvalidToken)
		_, err = simple.Identify(text, 1, start())
		require.Equal(t, text == "known.7", err == nil)
		simple.AppliedIndex(text)
	})
}
