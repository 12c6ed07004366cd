package compat

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/dolmen-io/dolmen/tests/harness"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

var (
	seeds      = flag.Int("seeds", 4, "how many random sequences to compare")
	steps      = flag.Int("steps", 1000, "length of each random sequence")
	firstSeed  = flag.Uint64("first-seed", 1, "seed of the first random sequence")
	hashes     = flag.Bool("hashkv", true, "end random sequences with a comparison of HashKV")
	restarts   = flag.Bool("restarts", true, "kill and restart both servers within random sequences")
	shrinkTime = flag.Duration("shrink-time", 90*time.Second, "how long to look for a shorter failing sequence")
)

// TestRandom compares random sequences. A difference is shrunk, shown with its seed, and written to a file that becomes
// a regression test when it is moved to testdata/.
func TestRandom(t *testing.T) {
	n := *seeds
	if testing.Short() {
		n = min(n, 2)
	}
	chosen := chosenRole(t)
	for i := range n {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { compareRandomly(t, chosen, seed, *steps) })
	}
	if chosen != alone {
		return
	}
	length := *steps
	if testing.Short() {
		length /= 4 // three members take longer for each
	}
	for i, where := range roles {
		seed := *firstSeed + uint64(i)
		t.Run(fmt.Sprintf("%s/seed=%d", where, seed), func(t *testing.T) { compareRandomly(t, where, seed, length) })
	}
}

// compareRandomly compares the random sequence of a seed, of a length, in a role.
func compareRandomly(t *testing.T, where role, seed uint64, length int) {
	t.Parallel()
	sequence := generate(seed, length, *restarts)
	if *hashes {
		sequence = append(sequence, hashStep())
	}
	index, answered, err := runCounting(t, where, sequence)
	if err == nil {
		t.Logf("%d steps, %d%% of the requests answered", len(sequence), answered)
		if answered < 30 && len(sequence) > 500 {
			t.Errorf("only %d%% of the requests were answered: a sequence must do more than be refused", answered)
		}
		return
	}
	t.Logf("seed %d, step %d of %d: %v\n%v", seed, index+1, len(sequence), sequence[index], err)
	small := shrink(sequence[:index+1], func(s []Step) bool {
		_, err := runSequence(t, where, s)
		return err != nil
	}, *shrinkTime)
	index, again := runSequence(t, where, small)
	if again == nil {
		t.Fatalf("seed %d differs, but its shrunk sequence does not always; the difference was:\n%v", seed, err)
	}
	path := keepSequence(t, where, seed, small, again)
	t.Errorf("seed %d differs at step %d of a sequence of %d, kept in %s (move it to testdata/):\n%s%v",
		seed, index+1, len(small), path, formatSteps(small), again)
}

// hashStep asks for the checksum at the current revision, by its number: for 0 a member answers what it remembers of a
// compaction at 0, and what is remembered after a kill depends on what had reached the disk.
func hashStep() Step {
	return Step{Op: "HashKV", User: "root", Req: &pb.HashKVRequest{Revision: currentBase}}
}

// TestReplay runs the sequences that once showed a difference.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sequences in testdata: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			t.Parallel()
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			sequence, err := parseSteps(f)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if index, err := runSequence(t, chosenRole(t), sequence); err != nil {
				t.Errorf("step %d: %v\n%v", index+1, sequence[index], err)
			}
		})
	}
}

// runSequence runs steps on two fresh servers or clusters.
func runSequence(t *testing.T, where role, sequence []Step) (index int, err error) {
	t.Helper()
	index, _, err = runCounting(t, where, sequence)
	return index, err
}

// runCounting also returns the percentage of requests that were answered and not refused. If leadership moved by itself, a
// difference says nothing, and all is done again.
func runCounting(t *testing.T, where role, sequence []Step) (index, answered int, err error) {
	t.Helper()
	for range comparisons {
		p := newPair(t, where, harness.Subject(), len(sequence) > 0 && sequence[0].Op == opSigned)
		index, err = p.run(sequence)
		answered = 100 * p.counts.answers / max(p.counts.answers+p.counts.errors, 1)
		again := err != nil && (p.oracle.moved() || p.subject.moved())
		p.close()
		if !again {
			break
		}
		t.Logf("once more: leadership moved, and then something differed: %v", err)
	}
	return index, answered, err
}

// TestRandomFindsDifference: an etcd that allows one operation a transaction is told from one that allows more, by a
// single step.
func TestRandomFindsDifference(t *testing.T) {
	t.Parallel()
	differs := func(s []Step) bool {
		p := newPair(t, alone, harness.Etcd, false, "--max-txn-ops=1")
		defer p.close()
		_, err := p.run(s)
		return err != nil
	}
	sequence := generate(1, 40, false)
	if !differs(sequence) {
		t.Fatal("the two servers were not told apart")
	}
	small := shrink(sequence, differs, time.Minute)
	if _, ok := small[0].Req.(*pb.TxnRequest); len(small) != 1 || !ok || proto.Size(small[0].Req) > 20 {
		t.Errorf("shrunk to\n%swant one transaction of two parts", formatSteps(small))
	}
}

func keepSequence(t *testing.T, where role, seed uint64, sequence []Step, difference error) (path string) {
	t.Helper()
	dir := filepath.Join("..", "bin", "differences")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, fmt.Sprintf("seed-%d%s.txt", seed, where))
	comment := "# " + strings.ReplaceAll(difference.Error(), "\n", "\n# ") + "\n"
	if err := os.WriteFile(path, []byte(comment+formatSteps(sequence)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestStepText: what is written can be replayed.
func TestStepText(t *testing.T) {
	sequence := append(generate(1, 3000, true), generate(2, 1000, true)...)
	again, err := parseSteps(strings.NewReader("# comment\n\n" + formatSteps(sequence)))
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != len(sequence) {
		t.Fatalf("%d steps became %d", len(sequence), len(again))
	}
	for i, s := range sequence {
		if s.Op != again[i].Op || s.Stream != again[i].Stream || s.User != again[i].User || s.Joined != again[i].Joined || !proto.Equal(s.Req, again[i].Req) {
			t.Fatalf("step %d changed from %v to %v", i, s, again[i])
		}
	}
	for _, bad := range []string{"Nothing", "Put nonsense:1", "Put key:", "& ", "Put @u nonsense:1"} {
		if _, err := parseStep(bad); err == nil {
			t.Errorf("parseStep(%q) has no error", bad)
		}
	}
}

// TestShrink looks for one put and one read of the same key in a long sequence.
func TestShrink(t *testing.T) {
	fails := func(s []Step) bool {
		written := false
		for _, step := range s {
			switch req := step.Req.(type) {
			case *pb.PutRequest:
				written = written || string(req.Key) == "a"
			case *pb.RangeRequest:
				if written && string(req.Key) == "a" && req.Limit > 0 {
					return true
				}
			}
		}
		return false
	}
	small := shrink(generate(1, 2000, false), fails, time.Minute)
	if len(small) != 2 {
		t.Fatalf("shrunk to %d steps, want 2:\n%s", len(small), formatSteps(small))
	}
	if got, want := small[0].String(), `Put key:"a"`; got != want {
		t.Errorf("first step is %q, want %q", got, want)
	}
	read := small[1].Req.(*pb.RangeRequest)
	if want := (&pb.RangeRequest{Key: []byte("a"), Limit: read.Limit}); !proto.Equal(read, want) {
		t.Errorf("second step is %v, want %v", read, want)
	}
}

// TestRelativeRevisions: offsets survive in nested requests, literal revisions stay.
func TestRelativeRevisions(t *testing.T) {
	req := txn(txn(&pb.RangeRequest{Key: []byte("a"), Revision: currentBase - 3, MinModRevision: compactedBase + 1, MaxModRevision: 7}))
	got := relativeTo(50, 20, req).(*pb.TxnRequest).Success[0].GetRequestTxn().Success[0].GetRequestRange()
	if got.Revision != 47 || got.MinModRevision != 21 || got.MaxModRevision != 7 {
		t.Errorf("resolved to %v", got)
	}
}
