package robustness

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// maxProxied bounds the connections through one proxy. Members keep a handful to each other; one that redials in a
	// loop finds its connections closed beyond this.
	maxProxied = 128
	// maxHead bounds a request's header, which is read to see who asks. Go's clients send well below it.
	maxHead = 16 << 10
	// chunkBytes times chunksOnTheWay is what a wire with a delay holds at most.
	chunkBytes     = 32 << 10
	chunksOnTheWay = 64
)

// proxy is the address of one member for the others. It forwards bytes both ways, each way as the network says, and
// learns from the first request of a connection which member has dialled. What is cut is held, not lost: the sender sees a
// connection that takes no more, as with packets that are dropped, and times out by its own clock.
type proxy struct {
	network *network
	member  string
	target  string
	l       net.Listener
	closed  chan struct{}

	mu struct {
		sync.Mutex
		conns  map[net.Conn]bool
		ending bool
	}
	running sync.WaitGroup
}

// newProxy listens on a free port for connections to the member at target.
func newProxy(n *network, member, target string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for connections to %s: %w", member, err)
	}
	p := &proxy{network: n, member: member, target: target, l: l, closed: make(chan struct{})}
	p.mu.conns = map[net.Conn]bool{}
	p.running.Go(p.accept)
	return p, nil
}

// address is where the member is reached through the proxy, host:port.
func (p *proxy) address() string { return p.l.Addr().String() }

// close ends all connections, and returns when nothing of the proxy runs.
func (p *proxy) close() {
	p.mu.Lock()
	p.mu.ending = true
	p.mu.Unlock()
	close(p.closed)
	p.l.Close()
	p.reset()
	p.running.Wait()
}

// reset ends the connections that there are, so that both ends see them closed at once.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.mu.conns {
		c.Close()
	}
}

// keep takes a connection into what reset closes, unless it is one too many.
func (p *proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.ending || len(p.mu.conns) >= 2*maxProxied {
		c.Close()
		return false
	}
	p.mu.conns[c] = true
	return true
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.mu.conns, c)
	c.Close()
}

func (p *proxy) accept() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return // the proxy is closed
		}
		if p.keep(c) {
			p.running.Go(func() { p.serve(c) })
		}
	}
}

// serve forwards one connection until either end of it is closed.
func (p *proxy) serve(dialled net.Conn) {
	defer p.drop(dialled)
	head, dialler, err := readHead(dialled)
	if err != nil {
		return
	}
	f := &forwarding{proxy: p, dialler: dialler, ended: make(chan struct{})}
	if !f.wait(true, time.Now()) {
		return
	}
	target, err := net.Dial("tcp", p.target)
	if err != nil || !p.keep(target) {
		return
	}
	defer p.drop(target)
	f.end = sync.OnceFunc(func() {
		close(f.ended)
		dialled.Close()
		target.Close()
	})
	var back sync.WaitGroup
	back.Go(func() { f.copy(target, dialled, nil, false) })
	f.copy(dialled, target, head, true)
	back.Wait()
}

// readHead reads a connection up to the end of its first request's header, and returns what it has read and the id of
// the member that asks, "" if it does not say.
func readHead(c net.Conn) (read []byte, dialler string, err error) {
	buffer := make([]byte, maxHead)
	n := 0
	for !bytes.Contains(buffer[:n], []byte("\r\n\r\n")) {
		if n == len(buffer) {
			return nil, "", fmt.Errorf("the header of a request is longer than %d bytes", maxHead)
		}
		more, err := c.Read(buffer[n:])
		if err != nil {
			return nil, "", err
		}
		n += more
	}
	const field = "\r\nX-Server-From: "
	if _, rest, found := bytes.Cut(buffer[:n], []byte(field)); found {
		value, _, _ := bytes.Cut(rest, []byte("\r\n"))
		dialler = string(value)
	}
	return buffer[:n], dialler, nil
}

// chunk is bytes on their way, and when they were sent.
type chunk struct {
	data []byte
	sent time.Time
}

// forwarding is one connection through a proxy.
type forwarding struct {
	proxy   *proxy
	dialler string        // the member that has dialled, by its id; "" if unknown
	ended   chan struct{} // closed by end, which closes both ends
	end     func()
}

// copy copies first and then what from sends to the other end, until from is closed and everything has arrived, or the
// other end takes no more. Then the connection has ended.
func (f *forwarding) copy(from, to net.Conn, first []byte, toMember bool) {
	way := make(chan chunk, chunksOnTheWay)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer f.end()
	reading.Go(func() {
		defer close(way)
		for data := first; ; {
			if len(data) > 0 {
				select {
				case way <- chunk{data, time.Now()}:
				case <-f.ended:
					return
				}
			}
			buffer := make([]byte, chunkBytes)
			n, err := from.Read(buffer)
			if err != nil {
				return
			}
			data = buffer[:n]
		}
	})
	for c := range way {
		if !f.wait(toMember, c.sent) {
			return
		}
		if _, err := to.Write(c.data); err != nil {
			return
		}
	}
	// The end of the stream goes the same way as its bytes: nobody hears of it while the wire is cut.
	f.wait(toMember, time.Now())
}

// wait returns true when something that was sent at a time may arrive, and false if the connection has ended first.
func (f *forwarding) wait(toMember bool, sent time.Time) bool {
	for {
		c, changed := f.proxy.network.on(f.dialler, f.proxy.member, toMember)
		var arrived <-chan time.Time
		if !c.cut {
			late := time.Until(sent.Add(c.delay))
			if late <= 0 {
				return true
			}
			arrived = time.After(late)
		}
		select {
		case <-arrived:
			return true
		case <-changed:
		case <-f.ended:
			return false
		case <-f.proxy.closed:
			return false
		}
	}
}
