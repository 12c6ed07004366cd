package etcdapi

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/internal/auth"
	"github.com/dolmen-io/dolmen/internal/mvcc"
	"github.com/dolmen-io/dolmen/internal/rpc"
	"github.com/dolmen-io/dolmen/internal/state"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Immediate is the running member as requests need it that are answered on their connection's reader.
type Immediate interface {
	// ReadNow is Member.Read for a read that has nothing to wait for; false if this one has.
	ReadNow(linearizable bool) (*state.View, bool)
}

// inPlace is how many keys a read may find to be answered on its connection's reader: more would hold up the others.
const inPlace = 16

// RegisterDirect has small reads answered on their connections' readers.
func (s *Services) RegisterDirect(server *rpc.Server, member Immediate) {
	server.Direct(pb.KV_Range_FullMethodName, func(c rpc.DirectCall) bool { return s.directRange(c, member) })
}

// directRange answers a Range of resident keys, if it is small and has nothing to wait for.
func (s *Services) directRange(c rpc.DirectCall, member Immediate) bool {
	var r smallRange
	if !r.decode(c.Message()) {
		return false
	}
	users := s.member.Users()
	var who auth.Identity
	var err error
	if users.Enabled() {
		if who, err = s.identifyBy(c, users); err != nil {
			return false // the handler may wait for a login, and has words for what does not hold
		}
	}
	v, ok := member.ReadNow(!r.serializable)
	if !ok {
		return false
	}
	defer v.Release()
	if v.Auth != users {
		return false // they change at this moment: rare enough to be left to the handler
	}
	about := func() (req, resp any) {
		full := &pb.RangeRequest{}
		_ = proto.Unmarshal(c.Message(), full) // for the log; it has been decoded before
		return full, nil
	}
	if users.Enabled() {
		err = users.Check(who, r.key, r.end, auth.Read)
		if err == nil {
			err = sameRevision(who, users)
		}
		if err != nil {
			c.Fail(toStatus(err), about)
			return true
		}
	}
	answer := &rangeAnswer{who: s.member.Header()}
	answer.res, err = v.KV.Range(mvcc.RangeOptions{Key: r.key, End: r.end, Limit: r.limit, CountOnly: r.countOnly})
	if err != nil {
		return false // the handler meets it, too, and has words for it
	}
	c.Answer(answer, about)
	return true
}

// rangeAnswer is an answer that is encoded where it is sent from.
type rangeAnswer struct {
	who Header
	res mvcc.RangeResult
}

// Size implements rpc.Raw.
func (a *rangeAnswer) Size() int { return rangeSize(&a.who, &a.res) }

// AppendTo implements rpc.Raw.
func (a *rangeAnswer) AppendTo(b []byte) []byte { return appendRange(b, &a.who, &a.res) }

// GetCount is for the log.
func (a *rangeAnswer) GetCount() int64 { return a.res.Count }

// smallRange is a RangeRequest of one key, of a count, or of a few keys, at the newest revision.
type smallRange struct {
	key, end                []byte
	limit                   int64
	serializable, countOnly bool
}

// Field numbers of RangeRequest, from etcd's rpc.proto.
const (
	fieldRangeKey          = 1
	fieldRangeEnd          = 2
	fieldRangeLimit        = 3
	fieldRangeSerializable = 7
	fieldRangeCountOnly    = 9
)

// decode reports whether b is such a request, with each field once at most. The slices are b's.
func (r *smallRange) decode(b []byte) bool {
	seen := 0
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > fieldRangeCountOnly || seen&(1<<num) != 0 {
			return false
		}
		seen |= 1 << num
		b = b[n:]
		switch typ {
		case protowire.BytesType:
			v, n := protowire.ConsumeBytes(b)
			if n < 0 {
				return false
			}
			switch b = b[n:]; num {
			case fieldRangeKey:
				r.key = v
			case fieldRangeEnd:
				r.end = v
			default:
				return false
			}
		case protowire.VarintType:
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return false
			}
			switch b = b[n:]; num {
			case fieldRangeLimit:
				r.limit = int64(v)
			case fieldRangeSerializable:
				r.serializable = v != 0
			case fieldRangeCountOnly:
				r.countOnly = v != 0
			default:
				return false
			}
		default:
			return false
		}
	}
	few := len(r.end) == 0 || r.countOnly || r.limit > 0 && r.limit <= inPlace
	return len(r.key) > 0 && r.limit >= 0 && few
}
