package harness

import (
	"net/http"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestSecureServer starts a server with TLS and reaches it over gRPC and HTTP/2, with a certificate and without.
func TestSecureServer(t *testing.T) {
	secure := NewSecure(t)
	s := Start(t, Subject(), Options{
		NoFsync: true, Args: secure.ArgsWithClients(),
		TLS: secure.Authority.Client(secure.Authority.Issue("root", nil)),
	})
	if _, err := pb.NewKVClient(s.Dial()).Put(t.Context(), &pb.PutRequest{Key: []byte("a")}); err != nil {
		t.Error(err)
	}
	without := pb.NewKVClient(s.DialAs(secure.Authority.Client(nil)))
	if _, err := without.Put(t.Context(), &pb.PutRequest{Key: []byte("a")}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a certificate: %v, want Unavailable", err)
	}
	resp, err := s.HTTPClient().Get(s.URL() + "/health")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
		t.Errorf("GET /health: %s over %s", resp.Status, resp.Proto)
	}
}
