package harness

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestKillRestartStop walks a server through its whole life: what was written before a kill is there after it.
func TestKillRestartStop(t *testing.T) {
	s := Start(t, Subject(), Options{})
	if _, err := pb.NewKVClient(s.Dial()).Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	s.KillAtLine(3)
	s.Restart()
	got, err := pb.NewKVClient(s.Dial()).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" {
		t.Errorf("after kill and restart Range(a) = %v, want one key with value 1", got.Kvs)
	}
	begin := time.Now()
	s.Stop()
	t.Logf("stopped in %v", time.Since(begin))
}

// TestEqualIDs holds the assumption of every comparison: ids do not depend on the ports.
func TestEqualIDs(t *testing.T) {
	var headers []*pb.ResponseHeader
	for _, kind := range []Kind{Etcd, Subject()} {
		s := Start(t, kind, Options{NoFsync: true})
		resp, err := pb.NewMaintenanceClient(s.Dial()).Status(t.Context(), &pb.StatusRequest{})
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		headers = append(headers, resp.Header)
	}
	if a, b := headers[0].String(), headers[1].String(); a != b {
		t.Errorf("headers differ:\netcd   %s\nsubject %s", a, b)
	}
}

func TestOutputFindsReadyLineAcrossWrites(t *testing.T) {
	o := newOutput(0)
	for _, part := range []string{"first\n{\"msg\":\"ready to ser", "ve client requests\"}", "\nmore"} {
		select {
		case <-o.ready:
			t.Fatal("ready before the line was complete")
		default:
		}
		if _, err := o.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-o.ready:
	default:
		t.Error("not ready after the ready line")
	}
}
