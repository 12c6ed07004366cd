package transport

import (
	"errors"
	"io"
	"time"

	"golang.org/x/net/http2"
)

// read takes frames until the connection ends. Answers that the frames of one read of the socket lead to at once are
// sent together.
func (c *conn) read() error {
	if err := c.readPreface(); err != nil {
		return err
	}
	for first := true; ; first = false {
		if !c.frameBuffered() {
			c.endBatch()
		}
		f, err := c.fr.ReadFrame()
		c.lastRead.Store(time.Now().UnixNano())
		if err == nil && first {
			if s, ok := f.(*http2.SettingsFrame); !ok || s.IsAck() {
				return http2.ConnectionError(http2.ErrCodeProtocol)
			}
			if err := c.nc.SetReadDeadline(time.Time{}); err != nil {
				return err
			}
		}
		if err == nil {
			c.beginBatch()
			err = c.take(f)
		}
		if err := c.survive(err); err != nil {
			c.endBatch()
			return err
		}
	}
}

// survive answers what is wrong with one stream, and returns what the connection cannot go on after.
func (c *conn) survive(err error) error {
	if err == nil {
		return nil
	}
	var fault http2.StreamError
	if !errors.As(err, &fault) {
		return err
	}
	if err := c.idle(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	st := c.mu.streams[fault.StreamID]
	if st == nil && (fault.StreamID > c.lastStream || fault.StreamID%2 == 0) && fault.StreamID != c.hdr.id {
		return http2.ConnectionError(fault.Code) // of a stream that there is not
	}
	c.resetLocked(fault.StreamID, fault.Code)
	if st != nil {
		c.close(st, errReset)
	}
	return nil
}

// resetLocked tells the client that a stream has ended, and keeps in mind that frames of it may be on their way.
func (c *conn) resetLocked(id uint32, code http2.ErrCode) {
	c.mu.out.reset(id, code)
	c.noteEnded(id)
	c.signal()
}

func (c *conn) readPreface() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(prefaceTimeout)); err != nil {
		return err
	}
	var b [len(http2.ClientPreface)]byte
	if _, err := io.ReadFull(c.br, b[:]); err != nil {
		return err
	}
	if string(b[:]) != http2.ClientPreface {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

// frameBuffered reports whether the next frame can be read without waiting for the client.
func (c *conn) frameBuffered() bool {
	if c.br.Buffered() < frameHeader {
		return false
	}
	b, err := c.br.Peek(frameHeader)
	return err == nil && c.br.Buffered() >= frameHeader+int(b[0])<<16+int(b[1])<<8+int(b[2])
}

func (c *conn) beginBatch() {
	if c.inBatch {
		return
	}
	c.inBatch = true
	c.mu.Lock()
	c.mu.batch = true
	c.mu.Unlock()
}

func (c *conn) endBatch() {
	if !c.inBatch {
		return
	}
	c.inBatch = false
	c.mu.Lock()
	c.mu.batch = false
	send := len(c.mu.out.buf) > 0 || len(c.mu.out.waiting) > 0
	c.mu.Unlock()
	if send {
		c.signal()
	}
}

// noteEnded keeps in mind that this side ended a stream before the client had. The last few are enough: what is on its
// way was sent within a round trip. Called with the lock.
func (c *conn) noteEnded(id uint32) {
	c.ended[c.endedAt] = id
	c.endedAt = (c.endedAt + 1) % len(c.ended)
}

func (c *conn) wasEnded(id uint32) bool {
	for _, e := range c.ended {
		if e == id {
			return true
		}
	}
	return false
}

// take handles one frame.
func (c *conn) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.data(f)
	case *http2.HeadersFrame:
		c.hdr.start(f)
		c.dec.SetEmitFunc(c.hdr.field)
		return c.block(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.ContinuationFrame:
		if c.hdr.continued++; c.hdr.continued > maxContinuations {
			return errFlood
		}
		return c.block(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.WindowUpdateFrame:
		return c.windowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.rstStream(f)
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.PingFrame:
		return c.ping(f)
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol}
		}
		return c.idle()
	case *http2.GoAwayFrame:
		if f.ErrCode != http2.ErrCodeNo {
			return io.EOF
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.mu.draining = true
		return c.idle()
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return c.idle() // of a type that we do not know: RFC 9113, 4.1
}

// idle counts a frame that is no part of a request.
func (c *conn) idle() error {
	if c.calm.spend(time.Now) {
		return nil
	}
	if c.calm.earn(c.earned.Swap(0)); c.calm.spend(time.Now) {
		return nil
	}
	return errFlood
}

func (c *conn) data(f *http2.DataFrame) error {
	st, err := c.receive(f)
	if st != nil {
		c.begin(st)
	}
	return err
}

// receive takes DATA, and returns the stream if its handler can begin.
func (c *conn) receive(f *http2.DataFrame) (begin *stream, err error) {
	n := int64(f.Length)
	c.mu.Lock()
	defer c.mu.Unlock()
	// The window of the connection is for what is on its way; what streams keep has bounds of its own.
	if c.unsent += n; c.unsent > connWindow {
		return nil, http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	if c.unsent >= connWindow/2 {
		c.mu.out.windowUpdate(0, c.unsent)
		c.unsent = 0
		c.signal()
	}
	st := c.mu.streams[f.StreamID]
	if st == nil {
		switch {
		case f.StreamID > c.lastStream:
			return nil, http2.ConnectionError(http2.ErrCodeProtocol)
		case c.wasEnded(f.StreamID):
			return nil, c.idle()
		}
		return nil, http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeStreamClosed}
	}
	if len(f.Data()) == 0 && !f.StreamEnded() {
		if err := c.idle(); err != nil {
			return nil, err
		}
	}
	start, err := st.receive(f.Data(), int(n), f.StreamEnded())
	if !start {
		st = nil
	}
	return st, err
}

// block takes a part of a header block.
func (c *conn) block(fragment []byte, last bool) error {
	h := &c.hdr
	if h.bytes += len(fragment); h.bytes > maxHeaderBlock {
		return errFlood
	}
	if _, err := c.dec.Write(fragment); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	if !last {
		return nil
	}
	if err := c.dec.Close(); err != nil {
		return http2.ConnectionError(http2.ErrCodeCompression)
	}
	return c.headers()
}

// headers takes a whole header block.
func (c *conn) headers() error {
	h := &c.hdr
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.mu.streams[h.id]; st != nil {
		return c.trailers(st)
	}
	switch {
	case h.id%2 == 0:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case h.id <= c.lastStream && c.wasEnded(h.id):
		return c.idle()
	case h.id <= c.lastStream:
		return http2.ConnectionError(http2.ErrCodeStreamClosed)
	}
	c.lastStream = h.id
	if !c.mu.drained {
		c.mu.out.lastStream = h.id
	}
	fault := func(code http2.ErrCode) error { return http2.StreamError{StreamID: h.id, Code: code} }
	switch {
	case h.tooLarge:
		return fault(http2.ErrCodeFrameSize)
	case h.dependsOnSelf || !h.complete():
		return fault(http2.ErrCodeProtocol)
	case h.endStream && h.req.length > 0:
		return fault(http2.ErrCodeProtocol)
	case c.mu.draining, c.full():
		return fault(http2.ErrCodeRefusedStream)
	}
	return c.open(h)
}

// full reports whether no further stream is taken at the moment.
func (c *conn) full() bool {
	most := c.srv.cfg.MaxConcurrentStreams
	return most > 0 && uint32(len(c.mu.streams)) >= most || c.mu.out.held > maxHeld ||
		len(c.mu.out.buf) > maxUnsent ||
		c.mu.large.partial > maxPartial || c.mu.headers > maxHeaders
}

// open begins a stream.
func (c *conn) open(h *headerBlock) error {
	h.req.checkBinary()
	st := c.newStream(h.id, h.req, h.endStream)
	st.sent.window = c.mu.out.initial
	st.weight = int64(h.size + streamWeight)
	c.mu.headers += st.weight
	wrong := c.refuse(&st.request)
	if wrong == nil && st.method != nil {
		wrong = st.chooseCompression()
	}
	c.mu.streams[h.id] = st
	if wrong != nil {
		st.reply(wrong)
		return nil
	}
	// A unary call begins with its message; it may have none.
	if st.method == nil || st.method.unary == nil || h.endStream {
		st.begun = true
		c.srv.run(st)
	}
	return nil
}

// trailers ends the client's side of a stream.
func (c *conn) trailers(st *stream) error {
	h := &c.hdr
	switch {
	case st.in.ended:
		return http2.StreamError{StreamID: h.id, Code: http2.ErrCodeStreamClosed}
	case !h.endStream || h.tooLarge || h.dependsOnSelf || !h.trailer():
		return http2.StreamError{StreamID: h.id, Code: http2.ErrCodeProtocol}
	}
	start, err := st.receive(nil, 0, true)
	if start {
		c.srv.run(st)
	}
	return err
}

func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	n := int64(f.Increment)
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		if c.mu.out.window += n; c.mu.out.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	} else {
		st := c.mu.streams[f.StreamID]
		if st == nil {
			if f.StreamID > c.lastStream {
				return http2.ConnectionError(http2.ErrCodeProtocol)
			}
			return c.idle() // of a stream that has just ended
		}
		if st.sent.window += n; st.sent.window > maxWindow {
			return http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl}
		}
	}
	if len(c.mu.out.waiting) > 0 {
		c.signal()
	}
	if n < smallUpdate {
		return c.idle()
	}
	return nil
}

func (c *conn) rstStream(f *http2.RSTStreamFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID > c.lastStream {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if st := c.mu.streams[f.StreamID]; st != nil {
		c.close(st, errReset)
	}
	return c.idle()
}

func (c *conn) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return c.idle()
	}
	if f.HasDuplicates() {
		if err := c.idle(); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f.ForeachSetting(c.setting); err != nil {
		return err
	}
	c.mu.out.settingsAck()
	c.signal()
	if c.mu.out.control > maxControl {
		return errFlood
	}
	return c.idle()
}

// setting applies one of the client's settings. Called with the lock.
func (c *conn) setting(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	o := &c.mu.out
	switch s.ID {
	case http2.SettingInitialWindowSize:
		grown := int64(s.Val) - o.initial
		o.initial = int64(s.Val)
		for _, st := range c.mu.streams {
			if st.sent.window += grown; st.sent.window > maxWindow {
				return http2.ConnectionError(http2.ErrCodeFlowControl)
			}
		}
	case http2.SettingMaxFrameSize:
		o.frame = int(s.Val)
	case http2.SettingHeaderTableSize:
		o.fields.tableSize(s.Val)
	}
	return nil
}

func (c *conn) ping(f *http2.PingFrame) error {
	if f.IsAck() {
		if f.Data == drainPing {
			c.finishDrain()
		}
		return c.idle()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.out.ping(true, f.Data)
	c.signal()
	answered := c.mu.sawAnswer
	c.mu.sawAnswer = false
	if !c.pings.allow(time.Now(), answered, len(c.mu.streams) > 0) {
		return errTooManyPings
	}
	if c.mu.out.control > maxControl {
		return errFlood
	}
	return c.idle()
}
