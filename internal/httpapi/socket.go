package httpapi

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"
)

const (
	// protocolBearer is the subprotocol with which a page in a browser, which cannot set headers, hands over
	// a token: "Bearer, TOKEN". The cookie does the same.
	protocolBearer = "Bearer"
	tokenCookie    = "token"
)

// serveSocket answers over a websocket: each message is a request of the stream, each line of the answer
// one message.
func (g *Gateway) serveSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols: []string{protocolBearer},
		// As etcd: a page of any origin may ask, as CORS allows it by default.
		InsecureSkipVerify: true,
	})
	if err != nil {
		return // it has answered
	}
	conn.SetReadLimit(g.limit)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(g.running, cancel)()
	body, messages := io.Pipe()
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer cancel() // who has gone waits for no answer
		receive(ctx, conn, messages)
	}()
	answer := &socketWriter{ctx: ctx, conn: conn, header: http.Header{}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL.String(), body)
	if err == nil {
		forward(req.Header, r)
		g.mux.ServeHTTP(answer, req)
		answer.finish()
	}
	_ = messages.CloseWithError(io.EOF) // for who still reads requests, and who brings them
	if ctx.Err() == nil {
		_ = conn.Close(websocket.StatusNormalClosure, "") // the client may have gone meanwhile
	}
	_ = conn.CloseNow()
	<-read
}

// receive hands the client's messages to the handler as lines, one at a time, until either side ends.
func receive(ctx context.Context, conn *websocket.Conn, into *io.PipeWriter) {
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			_ = into.CloseWithError(io.EOF) // the request ends there
			return
		}
		if _, err := into.Write(append(message, '\n')); err != nil {
			// The handler has ended. Only reading answers the closing handshake.
			<-conn.CloseRead(ctx).Done()
			return
		}
	}
}

// forward copies what a request's headers say about its sender.
func forward(to http.Header, r *http.Request) {
	for _, name := range []string{"Origin", "Referer"} {
		if v := r.Header.Get(name); v != "" {
			to.Set(name, v)
		}
	}
	if protocol := r.Header.Get("Sec-WebSocket-Protocol"); protocol != "" {
		authorization := ""
		if _, token, found := strings.Cut(protocol, protocolBearer+","); found {
			authorization = protocolBearer + " " + strings.TrimSpace(token)
		}
		to.Set("Authorization", authorization)
	}
	if cookie, err := r.Cookie(tokenCookie); err == nil {
		to.Set("Authorization", protocolBearer+" "+cookie.Value)
	}
}

// socketWriter is the http.ResponseWriter of a handler that answers over a websocket. There is no place
// for a status or headers. What it holds is one line, bounded by what the services answer.
type socketWriter struct {
	ctx    context.Context
	conn   *websocket.Conn
	header http.Header
	line   []byte
}

// Header implements http.ResponseWriter.
func (w *socketWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *socketWriter) WriteHeader(int) {}

// Flush implements http.Flusher: lines are sent as they end.
func (w *socketWriter) Flush() {}

// Write implements http.ResponseWriter.
func (w *socketWriter) Write(b []byte) (int, error) {
	for rest := b; ; {
		line, more, found := bytes.Cut(rest, []byte("\n"))
		w.line = append(w.line, line...)
		if !found {
			return len(b), nil
		}
		if err := w.send(); err != nil {
			return 0, err
		}
		rest = more
	}
}

// send sends the line as a message.
func (w *socketWriter) send() error {
	if len(w.line) == 0 {
		return nil
	}
	err := w.conn.Write(w.ctx, websocket.MessageText, w.line)
	w.line = w.line[:0]
	return err
}

// finish sends a last line that has no end.
func (w *socketWriter) finish() { _ = w.send() }
