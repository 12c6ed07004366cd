package transport

import (
	"context"

	"google.golang.org/grpc/status"
)

// Call is a unary request that its connection's reader answers, or has answered, without a handler's goroutine.
type Call stream

// Direct begins a unary request on its connection's reader. It must not block: other requests of the connection wait. It
// answers the call, now or later, or returns false to have the method's handler run on a worker.
type Direct func(*Call) bool

// Direct has requests for a method begin on their connections' readers. It must be called after RegisterService and before
// the first Serve.
func (s *Server) Direct(full string, d Direct) { s.methods[full].direct = d }

// Message returns the request as it was sent. It belongs to the call, and is never changed.
func (c *Call) Message() []byte { return c.asked }

// Field returns the first value of a field of the request's metadata, which must not be binary.
func (c *Call) Field(name string) (value string, ok bool) {
	for i := range c.request.fields {
		if f := &c.request.fields[i]; f.Name == name {
			return f.Value, true
		}
	}
	return "", false
}

// Connection returns a context that has the client's peer and ends with its connection.
func (c *Call) Connection() context.Context { return c.c.base }

// Answer ends the call with a message. It may be called on any goroutine, once, and does not block.
func (c *Call) Answer(v Raw) { (*stream)(c).answerRaw(v) }

// Fail ends the call with a status. It may be called on any goroutine, once, and does not block.
func (c *Call) Fail(s *status.Status) {
	st := (*stream)(c)
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	st.finish(s)
}

// begin begins a stream's handler. Called by the reader, without the lock.
func (c *conn) begin(st *stream) {
	if m := st.method; m != nil && m.direct != nil && st.request.compressor == nil {
		// Until the handler runs, the reader alone touches messages.
		if in := &st.in; in.err == nil && len(in.messages) == 1 && in.messages[0].compressed == 0 {
			st.asked = in.messages[0].data
			if m.direct((*Call)(st)) {
				return
			}
		}
	}
	c.srv.run(st)
}
