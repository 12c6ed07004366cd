package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/dolmen-io/dolmen/internal/engine"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/watch"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func request(t testing.TB, text string) *pb.InternalRaftRequest {
	req := &pb.InternalRaftRequest{}
	require.NoError(t, prototext.Unmarshal([]byte(text), req))
	return req
}

func mustApply(t testing.TB, s *State, lines ...string) *Turn {
	turn, err := s.Apply(entries(t, s.Applied(), lines))
	require.NoError(t, err)
	return turn
}

// users are requests about users and roles; root may do everything, a only what its role says.
var users = []string{
	`auth_user_add:{name:"root" hashedPassword:"cA=="}`, `auth_user_add:{name:"a" options:{no_password:true}}`,
	`auth_role_add:{name:"r"}`, `auth_user_grant_role:{user:"root" role:"root"}`, `auth_user_grant_role:{user:"a" role:"r"}`,
	`auth_role_grant_permission:{name:"r" perm:{permType:READWRITE key:"a" range_end:"c"}}`,
	`auth_role_revoke_permission:{role:"r" key:"a" range_end:"c"}`, `auth_user_revoke_role:{name:"a" role:"r"}`,
	`auth_user_change_password:{name:"root" hashedPassword:"cQ=="}`, `auth_user_delete:{name:"a"}`, `auth_role_delete:{role:"r"}`,
	`auth_enable:{}`, `auth_enable:{}`, `auth_disable:{}`, `auth_status:{}`, `auth_user_list:{}`, `auth_role_list:{}`,
	`auth_user_get:{name:"a"}`, `auth_role_get:{role:"r"}`, `authenticate:{name:"a" simple_token:"x"}`,
	`authenticate:{name:"root" simple_token:"y"}`,
}

func who(rng *rand.Rand) string {
	return []string{"", "as root 90 ", "as a 90 ", "as a 1 ", "as nobody 90 "}[rng.IntN(5)]
}

// randomLog returns entries in the form that scenarios use.
func randomLog(rng *rand.Rand, n int) []string {
	key := func() string { return string(rune('a' + rng.IntN(6))) }
	ops := []func() string{
		func() string { return fmt.Sprintf(`put:{key:%q value:"%d" lease:%d}`, key(), rng.IntN(9), rng.IntN(3)) },
		func() string { return fmt.Sprintf(`put:{key:%q ignore_value:true lease:%d}`, key(), rng.IntN(3)) },
		func() string { return fmt.Sprintf(`delete_range:{key:%q range_end:%q prev_kv:true}`, key(), key()) },
		func() string { return fmt.Sprintf(`range:{key:%q range_end:"z" revision:%d}`, key(), rng.IntN(20)) },
		func() string {
			return fmt.Sprintf(`txn:{compare:{key:%q target:VERSION version:%d} success:{request_put:{key:%q value:"t"}} `+
				`success:{request_delete_range:{key:"x" range_end:"\0"}} failure:{request_delete_range:{key:%q}}}`,
				key(), rng.IntN(3), key(), key())
		},
		func() string { return fmt.Sprintf(`lease_grant:{ID:%d TTL:60}`, 1+rng.IntN(2)) },
		func() string { return fmt.Sprintf(`lease_revoke:{ID:%d}`, 1+rng.IntN(2)) },
		func() string {
			return fmt.Sprintf(`lease_checkpoint:{checkpoints:{ID:%d remaining_TTL:%d}}`, 1+rng.IntN(2), rng.IntN(60))
		},
		func() string { return fmt.Sprintf(`compaction:{revision:%d}`, rng.IntN(n)) },
		func() string {
			return fmt.Sprintf(`alarm:{action:%d memberID:1 alarm:%d}`, rng.IntN(3), rng.IntN(3))
		},
		func() string { return who(rng) + fmt.Sprintf(`put:{key:%q prev_kv:true}`, key()) },
		func() string { return who(rng) + users[rng.IntN(len(users))] },
		func() string { return `empty` },
		func() string {
			id := 1 + rng.IntN(3)
			return fmt.Sprintf(`conf add %d {"id":%d,"peerURLs":["http://%d"]}`, id, id, id)
		},
	}
	log := make([]string, n)
	for i := range log {
		log[i] = ops[rng.IntN(len(ops))]()
		if strings.HasPrefix(log[i], "alarm") && rng.IntN(2) == 0 {
			log[i] = `alarm:{action:DEACTIVATE memberID:1 alarm:CORRUPT}`
		}
	}
	return log
}

// play applies a log in turns of random lengths, some removal between them, and a restart now and then.
// It returns everything that came out, in order.
func play(t *testing.T, eng engine.Engine, log []string, rng *rand.Rand, most int) string {
	var out strings.Builder
	s := open(t, eng)
	for len(log) > 0 {
		n := 1
		for n < min(len(log), 1+rng.IntN(most)) && !strings.HasPrefix(log[n-1], "conf") {
			n++
		}
		turn := mustApply(t, s, log[:n]...)
		log = log[n:]
		for _, o := range turn.Outcomes {
			fmt.Fprintf(&out, "#%d %s\n", o.ID, formatResult(o.Result))
		}
		record(&out, turn)
		if rng.IntN(4) == 0 {
			_, err := s.RemoveSome(1+rng.IntN(5), true)
			require.NoError(t, err)
		}
		if rng.IntN(8) == 0 {
			s = open(t, eng)
			s.LoadedLeases()
		}
	}
	for s.RemovalDue() {
		_, err := s.RemoveSome(1+rng.IntN(100), true)
		require.NoError(t, err)
	}
	return out.String() + dumpView(t, s)
}

// record writes what a turn says of keys, leases and members behind the outcomes of its entries, sorted
// by kind within the whole log by a prefix, so that it does not depend on where turns end.
func record(out *strings.Builder, turn *Turn) {
	for _, e := range turn.Events {
		fmt.Fprintf(out, "event %s", formatEvent(e))
	}
	for line := range strings.Lines(formatLeases(turn.Leases)) {
		fmt.Fprintf(out, "lease %s", line)
	}
	for _, c := range turn.Confs {
		fmt.Fprintf(out, "conf %v %d %v\n", c.GetType(), c.GetNodeId(), c.Rejected)
	}
}

// byKind takes the lines of each kind together, in their order.
func byKind(text string) map[string][]string {
	kinds := map[string][]string{}
	for line := range strings.Lines(text) {
		kind, _, _ := strings.Cut(line, " ")
		if strings.HasPrefix(kind, "#") {
			kind = "#"
		}
		kinds[kind] = append(kinds[kind], line)
	}
	return kinds
}

func dumpView(t *testing.T, s *State) string {
	v := s.View()
	defer v.Release()
	res, err := v.KV.Range(mvcc.RangeOptions{Key: []byte{0}, End: []byte{0}})
	require.NoError(t, err)
	text := fmt.Sprintf("view %s keys %d bytes %d current %d compacted %d\n", formatRange(&res),
		v.KV.Keys(), v.KV.Bytes(), v.KV.Current(), v.KV.Compacted())
	text += fmt.Sprintf("auth %v %d %v %v\n", v.Auth.Enabled(), v.Auth.Revision(), v.Auth.Users(), v.Auth.Roles())
	text += fmt.Sprintf("members %v alarms %v applied %s", v.Members.Members(), v.Alarms.Alarms, formatApplied(v.Applied))
	for id := range int64(3) {
		l, ok := s.Leases().Get(id)
		text += fmt.Sprintf("held %d %v %+v %v\n", id, ok, l, s.Leases().Keys(id))
	}
	return text
}

func dumpEngine(t *testing.T, eng engine.Engine) (content []string) {
	sn, err := eng.Snapshot()
	require.NoError(t, err)
	defer func() { require.NoError(t, sn.Close()) }()
	require.NoError(t, sn.Scan(nil, nil, false, func(k, v []byte) bool {
		content = append(content, fmt.Sprintf("%x = %x", k, v))
		return true
	}))
	return content
}

// requireSameLines stops at the first difference; all of them would be too much to read.
func requireSameLines(t *testing.T, want, got []string) {
	for i := range min(len(want), len(got)) {
		require.Equal(t, want[i], got[i], "line %d", i)
	}
	require.Len(t, got, len(want))
}

// Members cut the log into turns differently, remove at different times and restart when they like. What
// they hold and answer must be the same.
func TestTurnsDoNotMatter(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			log := randomLog(rng, 300)
			first := openEngine(t)
			want := byKind(play(t, first, log, rng, 1))
			for _, most := range []int{2, 10, 100} {
				eng := openEngine(t)
				got := byKind(play(t, eng, log, rng, most))
				for kind := range want {
					requireSameLines(t, want[kind], got[kind])
				}
				require.Len(t, got, len(want))
				requireSameLines(t, dumpEngine(t, first), dumpEngine(t, eng))
			}
			require.Equal(t, want["view"], byKind(dumpView(t, open(t, first)))["view"], "after a restart")
		})
	}
}

// Readers on other goroutines see whole turns: of two keys that every turn puts together, the same value,
// at the newest revision and at older ones that the view says can be read.
func TestReadersSeeWholeTurns(t *testing.T) {
	s := open(t, openEngine(t))
	mustApply(t, s, `put:{key:"a" value:"0"}`, `put:{key:"b" value:"0"}`)
	ctx, stop := context.WithCancel(context.Background())
	var readers sync.WaitGroup
	for i := range 4 {
		rng := rand.New(rand.NewPCG(uint64(i), 3))
		readers.Go(func() {
			for ctx.Err() == nil {
				readPair(t, s, rng)
			}
		})
	}
	rng := rand.New(rand.NewPCG(0, 2))
	for i := range 1500 {
		lines := []string{fmt.Sprintf(`txn:{success:{request_put:{key:"a" value:"%d"}} success:{request_put:{key:"b" value:"%d"}}}`, i, i)}
		current, compacted := s.Revisions()
		if i%5 == 0 && current > compacted+1 {
			lines = append(lines, fmt.Sprintf(`compaction:{revision:%d}`, max(compacted, 3)+rng.Int64N(current-max(compacted, 2))))
		}
		mustApply(t, s, lines...)
		_, err := s.RemoveSome(3, true)
		require.NoError(t, err)
	}
	stop()
	readers.Wait()
	for s.RemovalDue() {
		r, err := s.RemoveSome(100, true)
		require.NoError(t, err)
		require.False(t, r.Waiting, "a view that nobody reads holds removal up")
	}
}

func readPair(t *testing.T, s *State, rng *rand.Rand) {
	v := s.View()
	defer v.Release()
	o := mvcc.RangeOptions{Key: []byte("a"), End: []byte("c")}
	if low := max(v.KV.Compacted(), 3); rng.IntN(2) == 0 && low <= v.KV.Current() {
		o.Revision = low + rng.Int64N(v.KV.Current()-low+1)
	}
	res, err := v.KV.Range(o)
	if err != nil || len(res.KVs) != 2 {
		t.Errorf("at %d of view %d, compacted %d: %d keys, %v", o.Revision, v.KV.Current(), v.KV.Compacted(), len(res.KVs), err)
		return
	}
	a, _ := mvcc.DecodeKeyValue(res.KVs[0])
	b, _ := mvcc.DecodeKeyValue(res.KVs[1])
	if !bytes.Equal(a.Value, b.Value) || res.Count != 2 {
		t.Errorf("half a turn: %s and %s", a.Value, b.Value)
	}
	if rng.IntN(20) > 0 {
		return
	}
	if current, compacted := s.Revisions(); current >= v.KV.Current() && compacted < current {
		err := s.Events(current, current, []byte("a"), []byte("c"), func(watch.Event) bool { return true })
		if err != nil && !errors.Is(err, watch.ErrCompacted) {
			t.Error(err)
		}
	}
}

func TestViewTxn(t *testing.T) {
	s := open(t, openEngine(t))
	mustApply(t, s, `put:{key:"a" value:"1"}`, `put:{key:"b" value:"2"}`, `compaction:{revision:3}`)
	v := s.View()
	defer v.Release()
	for text, want := range map[string]string{
		`txn:{}`: "true[]",
		`txn:{success:{request_range:{key:"a" range_end:"z"}} success:{request_range:{key:"b" revision:3}}}`:          "true[range@3 count 2 a=1/2.2.1 b=2/3.3.1; range@3 count 1 b=2/3.3.1]",
		`txn:{compare:{key:"a" target:VALUE value:"x"} success:{request_range:{key:"a"}} failure:{request_range:{}}}`: "false[range@3 count 0]",
	} {
		res := v.Txn(request(t, text).Txn)
		require.NoError(t, res.Err)
		require.EqualValues(t, 3, res.Revision)
		require.Equal(t, want, formatTxn(res.Response.(*TxnResponse)))
	}
	for text, want := range map[string]error{
		`txn:{success:{request_range:{key:"a" revision:4}}}`: mvcc.ErrFuture,
		`txn:{success:{request_range:{key:"a" revision:2}}}`: mvcc.ErrCompacted,
		`txn:{success:{request_delete_range:{key:"a"}}}`:     errWriteInRead,
	} {
		require.ErrorIs(t, v.Txn(request(t, text).Txn).Err, want)
	}
}

func TestRequestID(t *testing.T) {
	require.EqualValues(t, 7, RequestID(request(t, `header:{ID:7} ID:8`)))
	require.EqualValues(t, 8, RequestID(request(t, `ID:8`)), "requests of old etcd members have it outside")
	require.Zero(t, RequestID(request(t, `put:{}`)))
	s := open(t, openEngine(t))
	turn, err := s.Apply([]Entry{{Index: 1, Request: request(t, `put:{key:"a"}`)}, {Index: 2, Request: request(t, `ID:8 put:{key:"a"}`)}})
	require.NoError(t, err)
	require.Len(t, turn.Outcomes, 1)
	require.EqualValues(t, 8, turn.Outcomes[0].ID)
}
