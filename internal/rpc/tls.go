package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/credentials"
)

const (
	// handshakeTimeout is etcd's.
	handshakeTimeout = 10 * time.Second
	// maxHandshakes is the most TLS handshakes of one listener at a time. One that says nothing holds some
	// tens of kilobytes for ten seconds, so this bounds them to about a hundred megabytes; a cluster's worth of
	// clients that come back at once is below it.
	maxHandshakes = 4096
)

// TLSListener accepts connections whose TLS handshake is done; they are *tls.Conn. Handshakes run beside each
// other, and one that fails is logged and closed.
type TLSListener struct {
	intake *intake
	out    *branch
	cfg    *tls.Config
	lg     *zap.Logger
	line   string // for a handshake that fails

	ended chan struct{}
	err   error // why it ended, once ended is closed
}

// NewTLSListener wraps a listener. role is whose connections it accepts, "client" or "peer": for the log. It
// starts a goroutine, which Close or a failure of the listener ends.
func NewTLSListener(ln net.Listener, cfg *tls.Config, lg *zap.Logger, role string) *TLSListener {
	l := &TLSListener{
		intake: newIntake(ln, maxHandshakes), out: newBranch(ln.Addr()), cfg: cfg, lg: lg,
		line: "rejected connection on " + role + " endpoint", ended: make(chan struct{}),
	}
	go l.run()
	return l
}

func (l *TLSListener) run() {
	defer close(l.ended)
	l.err = l.intake.run(l.handshake)
}

func (l *TLSListener) handshake(ctx context.Context, conn net.Conn) {
	secure := tls.Server(conn, l.cfg)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	err := secure.HandshakeContext(ctx)
	l.intake.forget(conn)
	if err != nil {
		l.reject(secure, err)
		return
	}
	if !l.out.deliver(secure) {
		_ = conn.Close() // without TLS's goodbye, for which the client may keep us waiting
	}
}

// reject closes a connection whose handshake has failed and says so in etcd's words.
func (l *TLSListener) reject(conn *tls.Conn, err error) {
	defer func() { _ = conn.Close() }() // whatever it says, nobody would act on it
	log := l.lg.Warn
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		log = l.lg.Debug // the client has thought better of it, or we are stopping: no word of a wrong certificate
	}
	state := conn.ConnectionState()
	fields := []zap.Field{zap.String("remote-addr", conn.RemoteAddr().String()), zap.String("server-name", state.ServerName)}
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		addresses := make([]string, 0, len(leaf.IPAddresses))
		for _, ip := range leaf.IPAddresses {
			addresses = append(addresses, ip.String())
		}
		fields = append(fields, zap.Strings("ip-addresses", addresses), zap.Strings("dns-names", leaf.DNSNames))
	}
	log(l.line, append(fields, zap.Error(err))...)
}

// Accept implements net.Listener.
func (l *TLSListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.out.conns:
		return conn, nil
	case <-l.ended:
		return nil, l.err
	}
}

// Close implements net.Listener. Connections that have been accepted stay open.
func (l *TLSListener) Close() error {
	err := l.intake.close()
	_ = l.out.Close() // always nil
	<-l.ended
	return err
}

// Addr implements net.Listener.
func (l *TLSListener) Addr() net.Addr { return l.out.Addr() }

// handshaken are the credentials of a gRPC server whose connections come from a TLSListener or are plain.
type handshaken struct{}

var errNoHTTP2 = errors.New("rpc: the client did not choose h2 in its TLS handshake")

// ServerHandshake implements credentials.TransportCredentials. A plain connection has no AuthInfo.
func (handshaken) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return conn, nil, nil
	}
	state := secure.ConnectionState()
	if state.NegotiatedProtocol != "h2" {
		return nil, nil, errNoHTTP2
	}
	return conn, credentials.TLSInfo{
		State: state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ClientHandshake implements credentials.TransportCredentials, for which a server has no use.
func (handshaken) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.ErrUnsupported
}

// Info implements credentials.TransportCredentials.
func (handshaken) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (h handshaken) Clone() credentials.TransportCredentials { return h }

// OverrideServerName implements credentials.TransportCredentials.
func (handshaken) OverrideServerName(string) error { return nil }
