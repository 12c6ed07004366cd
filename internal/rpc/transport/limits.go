package transport

import (
	"time"

	"golang.org/x/net/http2"
)

const (
	initialWindow = 65535 // RFC 9113, 6.9.2
	maxWindow     = 1<<31 - 1
	maxFrame      = 16384 // what a client may send; RFC 9113's default

	// streamWindow is what a stream may send before its messages are taken: enough for most requests whole.
	streamWindow = 64 << 10
	// connWindow is the window of a connection. It is given back as bytes arrive, since streams have bounds of their own:
	// it only has to be large against the round trip.
	connWindow = 16 << 20
	// maxLarge is what messages above a stream's window may take on one connection at once. More wait for their turn.
	maxLarge = 64 << 20
	// maxPartial is what unfinished messages within their windows may take on one connection; further streams are refused
	// until some are finished.
	maxPartial = 64 << 20

	// maxHeaderList is the largest header list (RFC 9113, 6.5.2) of a request; signed tokens are a few KiB.
	maxHeaderList = 128 << 10
	// maxHeaderBlock is the most bytes of a header block over its frames, and maxContinuations how many may follow the first.
	maxHeaderBlock   = 2 * maxHeaderList
	maxContinuations = 64
	// maxHeaders is what the headers of all open streams of a connection may take, each with streamWeight for what a stream is
	// besides, in bytes: hundreds of thousands of streams, unless their headers are large.
	maxHeaders   = 256 << 20
	streamWeight = 512
	// smallUpdate is the window below which an update counts as a frame without use: it costs us more than the client.
	smallUpdate = 1024

	// maxReady is the size of the buffer to be sent at which streams keep their answers for themselves, in bytes.
	maxReady = 1 << 20
	// maxUnsent is the size of that buffer at which further requests are refused, in bytes: the client does not read.
	maxUnsent = 4 << 20
	// maxControl is how many answers to control frames may wait to be sent.
	maxControl = 4096
	// maxHeld is what answers that windows hold back may take on one connection; further requests are refused until the
	// client has read some, in bytes.
	maxHeld = 256 << 20
	// streamQuota is how much a stream's handler may have unsent before it waits, in bytes; grpc-go's figure.
	streamQuota = 64 << 10
)

// budget bounds what a client can make us do at next to no cost to it: each frame that carries no request costs one, as
// does a request that is cancelled; time earns, and so does each frame that the client had us send. So it is never empty
// for a client that means well, unless it cancels more than a thousand requests a second for long.
type budget struct {
	left int
	at   time.Time
}

const (
	budgetMax  = 10_000
	budgetRate = 1_000 // a second
)

func newBudget() budget { return budget{left: budgetMax} }

// spend takes one and reports whether there was one. now is called only when it could be the last.
func (b *budget) spend(now func() time.Time) bool {
	if b.left > 0 {
		b.left--
		return true
	}
	t := now()
	if !b.at.IsZero() {
		earned := int(min(t.Sub(b.at).Seconds()*budgetRate, budgetMax))
		if earned == 0 {
			return false
		}
		b.left = earned - 1
	} else {
		b.left = budgetRate // since the connection began, a second has passed or the client gets an advance on it
	}
	b.at = t
	return true
}

// earn adds n.
func (b *budget) earn(n int64) { b.left = int(min(int64(b.left)+n, budgetMax)) }

// errFlood ends a connection that has spent its budget.
var errFlood = &goneError{http2.ErrCodeEnhanceYourCalm, "too many frames that are no requests"}

// pingPolicy is grpc-go's: pings that come too soon are strikes, and more than two end the connection. What the server
// sends takes the strikes away.
type pingPolicy struct {
	minTime time.Duration
	last    time.Time
	strikes int
}

const (
	maxPingStrikes     = 2
	defaultPingMinTime = 5 * time.Minute
	// idlePingInterval is the least between pings of a client without streams.
	idlePingInterval = 2 * time.Hour
)

func newPingPolicy(minTime time.Duration) pingPolicy {
	if minTime <= 0 {
		minTime = defaultPingMinTime
	}
	return pingPolicy{minTime: minTime}
}

// allow notes a ping and reports whether the client may live. answered says that something was sent since the last one.
func (p *pingPolicy) allow(now time.Time, answered, streams bool) bool {
	last := p.last
	p.last = now
	if answered {
		p.strikes = 0
		return true
	}
	least := p.minTime
	if !streams {
		least = idlePingInterval
	}
	if last.Add(least).After(now) {
		p.strikes++
	}
	return p.strikes <= maxPingStrikes
}

var errTooManyPings = &goneError{http2.ErrCodeEnhanceYourCalm, "too_many_pings"}

// largeMessages is the messages in assembly that are above their streams' windows. A stream gets window for the rest of
// its message when it is its turn, so that those that have it can be finished.
type largeMessages struct {
	partial int64 // bytes of all unfinished messages
	granted int64
	waiting []*stream
}
