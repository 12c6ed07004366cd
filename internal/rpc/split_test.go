package rpc

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// pipes is a listener whose connections tests make.
type pipes struct {
	conns  chan any // a net.Conn or an error
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan any), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		if err, ok := c.(error); ok {
			return nil, err
		}
		return c.(net.Conn), nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// dial returns the client's end of a new connection.
func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// splitting runs f with a splitter in a bubble of its own time.
func splitting(t *testing.T, f func(t *testing.T, p *pipes, s *splitter)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		s := newSplitter(p)
		for _, k := range []kind{kindOther, kindHTTP2, kindTLS} {
			s.branch(k)
		}
		ended := make(chan error, 1)
		go func() { ended <- s.run() }()
		f(t, p, s)
		require.NoError(t, s.close())
		require.NoError(t, s.close(), "again")
		require.Error(t, <-ended)
		_, err := s.to[kindOther].Accept()
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestSplit(t *testing.T) {
	for name, test := range map[string]struct {
		writes []string
		kind   kind
	}{
		"HTTP/2":                {[]string{preface + "rest"}, kindHTTP2},
		"HTTP/2, one by one":    {[]string{"P", "RI * HTTP/2.0\r\n\r\nSM\r\n\r", "\n", "rest"}, kindHTTP2},
		"HTTP/1":                {[]string{"GET / HTTP/1.1\r\n"}, kindOther},
		"PRI but not HTTP/2":    {[]string{"PRI", " * HTTP/1.1"}, kindOther},
		"PUT begins like it":    {[]string{"P", "UT / HTTP/1.1"}, kindOther},
		"TLS":                   {[]string{"\x16", "\x03\x01"}, kindTLS},
		"anything else is HTTP": {[]string{"\x00"}, kindOther},
	} {
		t.Run(name, func(t *testing.T) {
			splitting(t, func(t *testing.T, p *pipes, s *splitter) {
				client := p.dial()
				want := ""
				for _, w := range test.writes {
					want += w
				}
				go func() {
					for _, w := range test.writes {
						if _, err := io.WriteString(client, w); err != nil {
							return
						}
					}
				}()
				branch := s.to[test.kind]
				require.Equal(t, p.Addr(), branch.Addr())
				conn, err := branch.Accept()
				require.NoError(t, err)
				// No deadline remains from the sniffing.
				time.Sleep(2 * sniffTimeout)
				got := make([]byte, len(want))
				_, err = io.ReadFull(conn, got)
				require.NoError(t, err)
				require.Equal(t, want, string(got))
			})
		})
	}
}

func TestSilentConnectionIsClosed(t *testing.T) {
	splitting(t, func(t *testing.T, p *pipes, _ *splitter) {
		begin := time.Now()
		for _, said := range []string{"", "PRI"} {
			client := p.dial()
			if said != "" {
				_, err := io.WriteString(client, said)
				require.NoError(t, err)
			}
			_, err := client.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		}
		require.Equal(t, 2*sniffTimeout, time.Since(begin))
	})
}

func TestSniffedConnectionsAreBounded(t *testing.T) {
	splitting(t, func(t *testing.T, p *pipes, s *splitter) {
		for range maxSniffed {
			p.dial()
		}
		synctest.Wait()
		client, server := net.Pipe()
		select {
		case p.conns <- server:
			require.Fail(t, "accepted more than the bound")
		default:
		}
		time.Sleep(sniffTimeout)
		p.conns <- server // there is room again
		_, err := io.WriteString(client, "G")
		require.NoError(t, err)
		conn, err := s.to[kindOther].Accept()
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	})
}

func TestCloseEndsSniffing(t *testing.T) {
	splitting(t, func(t *testing.T, p *pipes, s *splitter) {
		silent, waiting := p.dial(), p.dial()
		_, err := io.WriteString(waiting, "G") // known, but nobody accepts
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, s.close())
		for _, c := range []net.Conn{silent, waiting} {
			_, err := c.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
		}
		late, server := net.Pipe()
		require.False(t, s.admit(server))
		_, err = late.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

// passing is an error of accept such as having no descriptors left.
type passing struct{ error }

func (passing) Temporary() bool { return true }

func TestAcceptIsRepeated(t *testing.T) {
	splitting(t, func(t *testing.T, p *pipes, s *splitter) {
		begin := time.Now()
		for range 4 {
			p.conns <- passing{errors.New("too many open files")}
		}
		client := p.dial()
		require.Equal(t, (1+2+4+8)*minPause, time.Since(begin))
		_, err := io.WriteString(client, "G")
		require.NoError(t, err)
		_, err = s.to[kindOther].Accept()
		require.NoError(t, err)
		p.conns <- passing{errors.New("too many open files")} // and close meanwhile
		synctest.Wait()
	})
}

// TestKindOfNobody: a kind without a branch is closed.
func TestKindOfNobody(t *testing.T) {
	splitting(t, func(t *testing.T, p *pipes, s *splitter) {
		s.to[kindTLS] = nil
		client := p.dial()
		_, err := io.WriteString(client, "\x16")
		require.NoError(t, err)
		_, err = client.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}
