package corruption

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dolmen-io/dolmen/internal/mvcc"
)

// fake is member 1 of a cluster whose answers a test decides.
type fake struct {
	own     []Answer // one for each call of Hash; the last one stays
	ownErr  error
	settle  error
	hashes  []mvcc.Hash
	peers   func(ask int, revision int64) []Peer
	asked   []int64
	suspect []uint64
	refuse  error
}

func (f *fake) Self() uint64 { return 1 }

func (f *fake) Others() int {
	if f.peers == nil {
		return 0
	}
	return len(f.peers(0, 0))
}

func (f *fake) Hash(int64) (Answer, error) {
	if f.ownErr != nil {
		return Answer{}, f.ownErr
	}
	a := f.own[0]
	if len(f.own) > 1 {
		f.own = f.own[1:]
	}
	return a, nil
}

func (f *fake) Hashes() []mvcc.Hash { return f.hashes }

func (f *fake) Ask(_ context.Context, revision int64) []Peer {
	f.asked = append(f.asked, revision)
	return f.peers(len(f.asked), revision)
}

func (f *fake) Settle(context.Context) error { return f.settle }

func (f *fake) Suspect(_ context.Context, id uint64) error {
	f.suspect = append(f.suspect, id)
	return f.refuse
}

func answer(sum uint32, compacted, revision int64) Answer {
	return Answer{Hash: mvcc.Hash{Sum: sum, Compacted: compacted, Revision: revision}, Current: revision, Finished: true}
}

// always gives the same answers to every question.
func always(peers ...Peer) func(int, int64) []Peer {
	return func(int, int64) []Peer { return peers }
}

func peer(id uint64, a Answer) Peer { return Peer{ID: id, Answer: a} }

func TestInitial(t *testing.T) {
	own := answer(7, 3, 10)
	for name, tc := range map[string]struct {
		peers []Peer
		lines []string
		fails bool
	}{
		"equal":     {peers: []Peer{peer(2, own), peer(3, own)}},
		"different": {peers: []Peer{peer(2, own), peer(3, answer(8, 3, 10))}, fails: true, lines: []string{"found different hash values from remote peer"}},
		"at another compaction": {peers: []Peer{peer(2, answer(8, 4, 10))},
			lines: []string{"found different compact revision values from remote peer"}},
		"no answers": {
			peers: []Peer{{ID: 2, Err: mvcc.ErrFuture}, {ID: 3, Err: mvcc.ErrCompacted}, {ID: 4, Err: ErrOtherCluster}, {ID: 5, Err: errors.New("refused")}},
			lines: []string{"cannot fetch hash from slow remote peer", "cannot fetch hash from remote peer; local member is behind",
				"cluster ID mismatch", "cannot fetch hash from remote peer"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			core, logs := observer.New(zapcore.WarnLevel)
			f := &fake{own: []Answer{own}, peers: always(tc.peers...)}
			err := New(zap.New(core), f).Initial(t.Context())
			require.Equal(t, tc.fails, errors.Is(err, ErrInconsistent))
			if tc.fails {
				require.EqualError(t, err, "1 found data inconsistency with peers")
			}
			var lines []string
			for _, e := range logs.All() {
				lines = append(lines, e.Message)
			}
			require.Equal(t, tc.lines, lines)
			require.Equal(t, []int64{10}, f.asked)
			require.Empty(t, f.suspect, "a start raises no alarm")
		})
	}
	require.NoError(t, New(zap.NewNop(), &fake{}).Initial(t.Context()), "alone, nothing is computed")
	broken := errors.New("disk")
	f := &fake{ownErr: broken, peers: always(peer(2, own))}
	require.ErrorIs(t, New(zap.NewNop(), f).Initial(t.Context()), broken)
}

func TestPeriodic(t *testing.T) {
	own := answer(7, 3, 10)
	unfinished := own
	unfinished.Finished = false
	ahead := answer(7, 3, 10)
	ahead.Current = 11
	once := func(first, later Peer) func(int, int64) []Peer {
		return func(ask int, _ int64) []Peer {
			if ask == 1 {
				return []Peer{first}
			}
			return []Peer{later}
		}
	}
	for name, tc := range map[string]struct {
		own     []Answer
		peers   func(int, int64) []Peer
		suspect []uint64
		looks   int
	}{
		"equal":                     {own: []Answer{own}, peers: always(peer(2, own)), looks: 1},
		"alone":                     {own: []Answer{own}, peers: always(), looks: 1},
		"different":                 {own: []Answer{own}, peers: always(peer(2, own), peer(3, answer(8, 3, 10))), suspect: []uint64{3}, looks: 2},
		"different once":            {own: []Answer{own}, peers: once(peer(2, answer(8, 3, 10)), peer(2, own)), looks: 2},
		"another member next":       {own: []Answer{own}, peers: once(peer(2, answer(8, 3, 10)), peer(3, answer(8, 3, 10))), looks: 2},
		"two are different":         {own: []Answer{own}, peers: always(peer(2, answer(8, 3, 10)), peer(3, answer(9, 3, 10))), suspect: []uint64{2}, looks: 2},
		"compacted less":            {own: []Answer{own}, peers: always(peer(2, answer(8, 2, 10))), looks: 1},
		"compacted more":            {own: []Answer{own}, peers: always(peer(2, answer(8, 4, 10))), suspect: []uint64{2}, looks: 2},
		"ahead of the leader":       {own: []Answer{own}, peers: always(peer(2, ahead)), suspect: []uint64{2}, looks: 2},
		"no answer":                 {own: []Answer{own}, peers: always(Peer{ID: 2, Err: mvcc.ErrFuture}), looks: 1},
		"own hash changes":          {own: []Answer{own, answer(8, 3, 10)}, peers: always(), looks: 2},
		"own hash changes always":   {own: []Answer{own, answer(8, 3, 10), own, answer(8, 3, 10)}, peers: always(), suspect: []uint64{1}, looks: 2},
		"a compaction is under way": {own: []Answer{unfinished}, peers: always(peer(2, answer(8, 3, 10))), looks: 1},
		"compacted between looks": {own: []Answer{own, own, answer(9, 5, 10)},
			peers: once(peer(2, answer(8, 3, 10)), peer(2, answer(8, 5, 10))), looks: 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fake{own: tc.own, peers: tc.peers}
			require.NoError(t, New(zap.NewNop(), f).Periodic(t.Context()))
			require.Equal(t, tc.suspect, f.suspect)
			require.Len(t, f.asked, tc.looks)
		})
	}
	broken := errors.New("broken")
	for name, f := range map[string]*fake{
		"hash":   {ownErr: broken, peers: always()},
		"settle": {own: []Answer{own}, peers: always(), settle: broken},
		"alarm":  {own: []Answer{own}, peers: always(peer(2, answer(8, 3, 10))), refuse: broken},
	} {
		require.ErrorIs(t, New(zap.NewNop(), f).Periodic(t.Context()), broken, name)
	}
}
