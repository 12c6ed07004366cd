package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/certs"
	"github.com/dolmen-io/dolmen/internal/certs/certstest"
)

// serveVersion answers as a member whose peers reach it through a socket of that name in the directory of the test.
func serveVersion(t *testing.T, socket string, secure *tls.Config) {
	ln, err := net.Listen("unix", socket)
	require.NoError(t, err)
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"etcdserver":%q,"etcdcluster":"3.7.0"}`, r.URL.Path)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln)
	}()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-done
	})
}

// TestQuestionsOverSockets: members whose peer URLs are sockets are asked for their version, or the cluster would
// never have one.
func TestQuestionsOverSockets(t *testing.T) {
	t.Chdir(t.TempDir())
	ca := certstest.NewAuthority(t, "authority")
	pair := ca.Issue("server", []string{"localhost"})
	cfg := certs.Config{Role: "peer", TrustedCAFile: certstest.Write(t, ".", "ca.crt", ca.PEM()), Logger: zap.NewNop(),
		Now: time.Now, Resolver: net.DefaultResolver}
	cfg.CertFile, cfg.KeyFile = pair.Write(".", "server")
	store, err := certs.Open(cfg)
	require.NoError(t, err)
	serveVersion(t, "localhost:1", nil)
	serveVersion(t, "localhost:2", store.Server(false))

	for _, certificates := range []*certs.Store{nil, store} {
		q := newQuestions(testPatience, certificates, maxAnswer)
		server, cluster, err := q.versionsOf(t.Context(), []string{"unix://localhost:3", "unix://localhost:1"})
		require.NoError(t, err)
		require.Equal(t, "/version", server)
		require.Equal(t, "3.7.0", cluster)
	}
	q := newQuestions(testPatience, store, maxAnswer)
	_, cluster, err := q.versionsOf(t.Context(), []string{"unixs://localhost:2"})
	require.NoError(t, err)
	require.Equal(t, "3.7.0", cluster)
	_, _, err = newQuestions(testPatience, nil, maxAnswer).versionsOf(t.Context(), []string{"unixs://localhost:2"})
	require.Error(t, err, "its authority is not known")
}
