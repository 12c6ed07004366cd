package state

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/dolmen-io/dolmen/internal/engine"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestCost(t *testing.T) {
	for line, want := range map[string]int64{
		`put:{key:"abc" value:"12345"}`: 256 + 8,
		`put:{}`:                        256,
		`lease_grant:{ID:5 TTL:9}`:      64,
		`delete_range:{key:"a"}`:        0,
		`lease_revoke:{ID:5}`:           0,
		`compaction:{revision:5}`:       0,
		`txn:{success:{request_range:{key:"a"}} failure:{request_delete_range:{key:"a"}}}`:                                         0,
		`txn:{success:{request_put:{key:"a"}} success:{request_put:{key:"bb"}} failure:{request_put:{key:"c"}}}`:                   256 + 1 + 256 + 2,
		`txn:{success:{request_put:{key:"a"}} failure:{request_put:{key:"cc" value:"d"}}}`:                                         256 + 3,
		`txn:{success:{request_txn:{failure:{request_put:{key:"a"}}}} success:{request_put:{key:"b"}}}`:                            2 * 257,
		`txn:{success:{request_txn:{success:{request_txn:{success:{request_put:{key:"a"}}}} failure:{request_put:{key:"long"}}}}}`: 260,
	} {
		req := &pb.InternalRaftRequest{}
		require.NoError(t, prototext.Unmarshal([]byte(line), req))
		require.Equal(t, want, Cost(req), line)
	}
	require.True(t, Exceeds(90, 10, 100), "a full store is over its quota")
	require.False(t, Exceeds(89, 10, 100))
	require.False(t, Exceeds(1000, 0, 100), "what adds nothing is welcome")
	require.False(t, Exceeds(1000, 10, 0))
	require.False(t, Exceeds(1000, 10, -1))
}

// TestBytesAreWhatTheEngineHolds compares the count with a scan after every turn of random logs.
func TestBytesAreWhatTheEngineHolds(t *testing.T) {
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 3))
		eng := openEngine(t)
		s := open(t, eng)
		check := func() {
			t.Helper()
			sn, err := eng.Snapshot()
			require.NoError(t, err)
			size := int64(0)
			require.NoError(t, sn.Scan(nil, nil, false, func(k, v []byte) bool {
				size += int64(len(k) + len(v))
				return true
			}))
			require.NoError(t, sn.Close())
			require.Equal(t, size, s.Bytes())
		}
		for _, line := range randomLog(rng, 150) {
			mustApply(t, s, line)
			check()
			if rng.IntN(4) == 0 {
				_, err := s.RemoveSome(1+rng.IntN(5), true)
				require.NoError(t, err)
				check()
			}
			if rng.IntN(20) == 0 {
				before := s.Bytes()
				s = open(t, eng)
				s.LoadedLeases()
				require.Equal(t, before, s.Bytes(), "it is the same after a restart")
			}
		}
	}
}

func TestTableSizesFollowRanges(t *testing.T) {
	sizes := tableSizes{entries: map[string]int{}}
	var b engine.Batch
	for _, name := range []string{"a", "b", "c"} {
		b.Put(engine.TableKey(engine.TableAuthUser, []byte(name)), []byte("1234"))
	}
	b.Put(engine.TableKey(engine.TableLease, []byte("12345678")), []byte("its own business"))
	sizes.note(b.Ops())
	require.EqualValues(t, 3*6, sizes.total)
	b.Reset()
	b.DeleteRange(engine.TableKey(engine.TableAuthUser, []byte("a")), engine.TableKey(engine.TableAuthUser, []byte("c")))
	b.Put(engine.TableKey(engine.TableAuthUser, []byte("c")), []byte("12"))
	sizes.note(b.Ops())
	require.EqualValues(t, 4, sizes.total)
	require.Len(t, sizes.entries, 1)
}

// TestOverQuota: what was admitted is applied on every member; this one answers that there is no space and
// asks for the alarm, which then refuses at apply.
func TestOverQuota(t *testing.T) {
	eng, other := openEngine(t), open(t, openEngine(t))
	s, err := Open(eng, Config{MinTTL: 2, MaxLearners: 1, Quota: 1000})
	require.NoError(t, err)
	log := []string{`put:{key:"a"}`, fmt.Sprintf(`put:{key:"b" value:%q}`, strings.Repeat("x", 900)), `lease_grant:{ID:3 TTL:9}`,
		`txn:{success:{request_put:{key:"c"}}}`, `delete_range:{key:"a"}`, `txn:{success:{request_delete_range:{key:"c"}}}`,
		`lease_revoke:{ID:3}`, `put:{key:"d" lease:99}`, `compaction:{revision:2}`}
	noSpace := map[int]bool{1: true, 2: true, 3: true}
	for i, line := range log {
		turn := mustApply(t, s, line)
		require.Equal(t, noSpace[i], turn.OverQuota != 0, line)
		if noSpace[i] {
			require.ErrorIs(t, turn.Outcomes[0].Result.Err, ErrNoSpace, line)
		}
		unlimited := mustApply(t, other, line)
		require.Zero(t, unlimited.OverQuota)
		require.Equal(t, unlimited.Events, turn.Events, "a quota decides nothing")
		require.Equal(t, unlimited.View.Bytes, turn.View.Bytes)
	}
	mustApply(t, s, `alarm:{action:ACTIVATE memberID:1 alarm:NOSPACE}`)
	require.True(t, s.Alarms().NoSpace)
	turn := mustApply(t, s, `put:{key:"a"}`)
	require.ErrorIs(t, turn.Outcomes[0].Result.Err, ErrNoSpace)
	require.Zero(t, turn.OverQuota, "it was not applied, and the alarm is there")
	require.Empty(t, turn.Events)
}
