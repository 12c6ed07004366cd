package robustness

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// echo is a member that answers each line with itself, behind a proxy.
func echo(t *testing.T, n *network, name string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	p, err := newProxy(n, name, l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(p.close)
	return p
}

// dialAs connects as the member with an id and returns what comes back.
func dialAs(t *testing.T, p *proxy, id uint64) (net.Conn, <-chan string) {
	t.Helper()
	c, err := net.Dial("tcp", p.address())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = fmt.Fprintf(c, "GET /raft/stream HTTP/1.1\r\nX-Server-From: %x\r\n\r\n", id)
	require.NoError(t, err)
	lines := make(chan string, 16)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(c); in.Scan(); {
			if in.Text() != "" {
				lines <- in.Text()
			}
		}
	}()
	return c, lines
}

func expect(t *testing.T, lines <-chan string, want ...string) {
	t.Helper()
	for _, line := range want {
		select {
		case got, open := <-lines:
			require.True(t, open, "the connection is closed, want %q", line)
			require.Equal(t, line, got)
		case <-time.After(10 * time.Second):
			t.Fatalf("%q did not arrive", line)
		}
	}
}

// expectNothing holds that nothing arrives for a while: long enough to notice bytes that do pass.
func expectNothing(t *testing.T, lines <-chan string) {
	t.Helper()
	select {
	case got, open := <-lines:
		t.Fatalf("%q arrived (open: %v), the wire is cut", got, open)
	case <-time.After(50 * time.Millisecond):
	}
}

var head7 = []string{"GET /raft/stream HTTP/1.1", "X-Server-From: 7"}

// TestProxyCutsEachWay: what is on a cut wire arrives when it is healed, in order, and the other way goes on.
func TestProxyCutsEachWay(t *testing.T) {
	n := newNetwork()
	n.know(7, "a")
	n.know(8, "c")
	p := echo(t, n, "b")
	c, back := dialAs(t, p, 7)
	expect(t, back, head7...)

	for _, w := range []wire{{"a", "b"}, {"b", "a"}} {
		n.set(w.from, w.to, condition{cut: true})
		other, otherBack := dialAs(t, p, 8)
		expect(t, otherBack, "GET /raft/stream HTTP/1.1", "X-Server-From: 8")
		fmt.Fprintln(c, "one")
		fmt.Fprintln(c, "two")
		fmt.Fprintln(other, "other")
		expect(t, otherBack, "other")
		expectNothing(t, back)
		n.set(w.from, w.to, condition{})
		expect(t, back, "one", "two")
	}
}

// TestProxyHoldsNewConnections: also what is dialled while the wire is cut waits, and the end of a stream is not heard.
func TestProxyHoldsNewConnections(t *testing.T) {
	n := newNetwork()
	n.know(7, "a")
	p := echo(t, n, "b")
	early, earlyBack := dialAs(t, p, 7)
	expect(t, earlyBack, head7...)
	n.part([]string{"a"}, []string{"b"})
	require.Equal(t, "a>b cut, b>a cut", n.String())
	_, back := dialAs(t, p, 7)
	expectNothing(t, back)
	require.NoError(t, early.(*net.TCPConn).CloseWrite())
	expectNothing(t, earlyBack)
	n.heal()
	require.Empty(t, n.String())
	expect(t, back, head7...)
	_, open := <-earlyBack
	require.False(t, open)
}

// TestProxyDelays: nothing arrives before its time, and what follows closely does not wait for what was before it.
func TestProxyDelays(t *testing.T) {
	const delay = 100 * time.Millisecond
	n := newNetwork()
	n.know(7, "a")
	p := echo(t, n, "b")
	c, back := dialAs(t, p, 7)
	expect(t, back, head7...)
	n.set("a", "b", condition{delay: delay})
	n.set("b", "a", condition{delay: delay})
	began := time.Now()
	for i := range 10 {
		fmt.Fprintln(c, i)
	}
	expect(t, back, "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
	require.GreaterOrEqual(t, time.Since(began), 2*delay)
}

// TestProxyUnknownDialler: one that does not say who it is gets through while any member does.
func TestProxyUnknownDialler(t *testing.T) {
	n := newNetwork()
	n.know(7, "a")
	n.know(8, "c")
	n.know(9, "b")
	p := echo(t, n, "b")
	n.part([]string{"b"}, []string{"a"})
	c, err := net.Dial("tcp", p.address())
	require.NoError(t, err)
	defer c.Close()
	req, err := http.NewRequest(http.MethodGet, "http://"+p.address()+"/members", http.NoBody)
	require.NoError(t, err)
	require.NoError(t, req.Write(c))
	first := make([]byte, len("GET /members"))
	_, err = io.ReadFull(c, first)
	require.NoError(t, err)
	require.Equal(t, "GET /members", string(first))

	n.part([]string{"b"}, []string{"c"})
	_, back := dialAs(t, p, 99)
	expectNothing(t, back)
	n.heal()
	expect(t, back, "GET /raft/stream HTTP/1.1", "X-Server-From: 63")
}

// TestProxyReset: both ends see the connection closed, and the next one works.
func TestProxyReset(t *testing.T) {
	n := newNetwork()
	p := echo(t, n, "b")
	_, back := dialAs(t, p, 7)
	expect(t, back, head7...)
	p.reset()
	_, open := <-back
	require.False(t, open)
	_, back = dialAs(t, p, 7)
	expect(t, back, head7...)
}
