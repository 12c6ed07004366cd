package compat

import (
	"fmt"
	"testing"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// fillForRanges writes keys whose order differs by key, value, create revision, mod revision and version, with ties in
// value and version, one key with a lease and one deleted. Current revision afterwards: 16.
func fillForRanges(r *Recorder) {
	r.Do(&pb.LeaseGrantRequest{ID: 7, TTL: 1000})
	r.DoAll(
		put("c", "3"), put("a", "5"), put("e", "1"), put("b", "3"), // 2-5
		put("a", "2"), put("d", "4"), put("a", "9"), put("e", "3"), // 6-9
		put("f", "0"), del("f", ""), putLease("g", "6", 7), put("b", "1"), // 10-13
		put("h", ""), put("h", "8"), txn(put("aa", "7"), put("ab", "7")), // 14-16
	)
}

const rangesRevision = 16

// TestRangeOptions crosses every order with every target, limit and shape of the answer.
func TestRangeOptions(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		fillForRanges(r)
		for order := pb.RangeRequest_NONE; order <= pb.RangeRequest_DESCEND; order++ {
			for target := pb.RangeRequest_KEY; target <= pb.RangeRequest_VALUE; target++ {
				for _, limit := range []int64{-1, 0, 1, 2, 3, 8, 9, 100, 1<<63 - 1} {
					for shape := range 8 {
						r.Do(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: limit,
							SortOrder: order, SortTarget: target,
							KeysOnly: shape&1 != 0, CountOnly: shape&2 != 0, Serializable: shape&4 != 0})
					}
				}
			}
		}
	})
}

// TestRangeRevisionFilters crosses the four filters with limits, orders and shapes.
func TestRangeRevisionFilters(t *testing.T) {
	bounds := []int64{-1, 0, 1, 5, 9, 13, rangesRevision, 100}
	compare(t, harness.Options{}, func(r *Recorder) {
		fillForRanges(r)
		for _, low := range bounds {
			for _, high := range bounds {
				for shape := range 12 {
					req := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0},
						MinModRevision: low, MaxModRevision: high,
						KeysOnly: shape&1 != 0, Limit: []int64{0, 2}[shape&1],
						SortOrder: pb.RangeRequest_SortOrder(shape % 3), SortTarget: pb.RangeRequest_SortTarget(shape % 5)}
					r.Do(req)
					req = proto.CloneOf(req)
					req.MinModRevision, req.MaxModRevision = 0, 0
					req.MinCreateRevision, req.MaxCreateRevision = low, high
					req.CountOnly = shape == 11
					r.Do(req)
				}
			}
		}
		r.Do(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), MinModRevision: 5, MaxModRevision: 13,
			MinCreateRevision: 2, MaxCreateRevision: 5})
	})
}

// TestRangeIntervals covers the conventions of key and range end, at several revisions.
func TestRangeIntervals(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		fillForRanges(r)
		for _, revision := range []int64{-5, 0, 1, 2, 7, 10, 11, rangesRevision, rangesRevision + 1, 1 << 60} {
			for _, interval := range [][2]string{
				{"a", ""}, {"f", ""}, {"zz", ""}, {"a", all}, {"e", all}, {all, all}, {"a", "b"}, {"aa", "ac"},
				{"b", "a"}, {"b", "b"}, {"", ""}, {"", "z"}, {"", all}, {all, ""}, {"a", "a\x00"}, {"\xff", all},
			} {
				req := get(interval[0], interval[1])
				req.Revision = revision
				r.Do(req)
				req.KeysOnly = true
				r.Do(req)
			}
		}
	})
}

// TestRangeBadInput covers values outside the enumerations, alone and together with other errors.
func TestRangeBadInput(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		fillForRanges(r)
		for _, order := range []pb.RangeRequest_SortOrder{-1, 3, 99} {
			for _, target := range []pb.RangeRequest_SortTarget{-1, 0, 5, 99} {
				r.Do(&pb.RangeRequest{Key: []byte("a"), SortOrder: order, SortTarget: target})
				r.Do(&pb.RangeRequest{SortOrder: order, SortTarget: target})
				r.Do(&pb.RangeRequest{Key: []byte("a"), SortTarget: target, Revision: 1000})
			}
		}
		r.Do(&pb.RangeRequest{})
		r.Do(&pb.RangeRequest{Key: []byte("a"), Limit: -1 << 63, MinModRevision: 1 << 62, MaxCreateRevision: -1 << 63})
	})
}

// TestRangeSortTies sorts more equal elements than insertion sort is used for, so that the algorithm shows.
func TestRangeSortTies(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		for i := range 120 {
			r.Do(put(fmt.Sprintf("k%03d", i), fmt.Sprint(i*7%3)))
		}
		for order := pb.RangeRequest_NONE; order <= pb.RangeRequest_DESCEND; order++ {
			for target := pb.RangeRequest_KEY; target <= pb.RangeRequest_VALUE; target++ {
				for _, limit := range []int64{0, 7, 50} {
					r.Do(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: limit, SortOrder: order, SortTarget: target})
				}
			}
		}
	})
}

// TestRangeStream covers the streaming read: its checks, its merged answer, and which message has the header.
func TestRangeStream(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		fillForRanges(r)
		for order := pb.RangeRequest_SortOrder(-1); order <= 3; order++ {
			for target := pb.RangeRequest_SortTarget(-1); target <= 5; target++ {
				// These keys fit one chunk. etcd sorts each of many by itself, which skips and repeats keys.
				r.Stream(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), SortOrder: order, SortTarget: target})
			}
		}
		for _, limit := range []int64{-1, 0, 1, 3, 9, 10, 100, 1<<63 - 1} {
			for shape := range 8 {
				for _, revision := range []int64{-1, 0, 1, 9, rangesRevision, rangesRevision + 1} {
					r.Stream(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Limit: limit, Revision: revision,
						KeysOnly: shape&1 != 0, CountOnly: shape&2 != 0, Serializable: shape&4 != 0})
				}
			}
		}
		r.Stream(&pb.RangeRequest{})
		r.Stream(&pb.RangeRequest{Key: []byte("nothing")})
		r.Stream(&pb.RangeRequest{Key: []byte("b"), RangeEnd: []byte("a")})
		r.Stream(&pb.RangeRequest{Key: []byte(all), RangeEnd: []byte(all)})
		for _, filter := range []*pb.RangeRequest{{MinModRevision: 1}, {MaxModRevision: 1}, {MinCreateRevision: 1}, {MaxCreateRevision: -1}} {
			filter.Key = []byte("a")
			r.Stream(filter)
		}
		r.Do(compact(9))
		r.Stream(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Revision: 8})
		r.Stream(&pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Revision: 9})
	})
}

// TestRangeStreamManyKeys streams enough for many chunks.
func TestRangeStreamManyKeys(t *testing.T) {
	compare(t, harness.Options{}, func(r *Recorder) {
		value := string(make([]byte, 20_000))
		for i := range 300 {
			r.Do(put(fmt.Sprintf("k%03d", i), value))
		}
		for _, limit := range []int64{0, 10, 11, 25, 299, 300, 301} {
			r.Stream(&pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: limit})
		}
	})
}
