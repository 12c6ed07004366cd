package transport

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
)

// serveWeb answers a request that is not gRPC.
func (st *stream) serveWeb() {
	w := &webWriter{st: st, header: http.Header{}}
	r, err := st.webRequest()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		w.end()
		return
	}
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler { //nolint:errorlint // net/http's own convention compares the value
				st.c.srv.cfg.Logger.Error("an HTTP request failed by a panic; the member goes on, please report this",
					zap.String("path", st.request.path), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			}
			w.abort()
			return
		}
		w.end()
	}()
	st.c.web.ServeHTTP(w, r)
}

// webRequest is the request as net/http's handlers know it.
func (st *stream) webRequest() (*http.Request, error) {
	q := &st.request
	h := http.Header{}
	for _, f := range q.fields {
		switch f.Name {
		case "host":
			continue
		case "cookie":
			if c := h.Get("Cookie"); c != "" { // RFC 9113, 8.2.3
				h.Set("Cookie", c+"; "+f.Value)
				continue
			}
		}
		h.Add(f.Name, f.Value)
	}
	host := q.authority
	for _, f := range q.fields {
		if host == "" && f.Name == "host" {
			host = f.Value
		}
	}
	r := &http.Request{
		Method: q.method, Proto: "HTTP/2.0", ProtoMajor: 2, Header: h, Host: host, RequestURI: q.path,
		RemoteAddr: st.c.nc.RemoteAddr().String(), TLS: st.c.tls, ContentLength: q.length,
		Body: http.NoBody, URL: &url.URL{Host: host},
	}
	if q.method != http.MethodConnect {
		u, err := url.ParseRequestURI(q.path)
		if err != nil {
			return nil, err
		}
		r.URL = u
	}
	if !st.endedAtStart() {
		r.Body = &webBody{st: st}
	} else {
		r.ContentLength = 0
	}
	return r.WithContext(st.ctx), nil
}

func (st *stream) endedAtStart() bool {
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	return st.in.ended && len(st.in.messages) == 0
}

// webBody is the body of a request.
type webBody struct {
	st   *stream
	rest []byte
	err  error
}

// Read implements io.Reader.
func (b *webBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		m, err := b.st.next(b.st.ctx)
		if err != nil {
			b.err = err
			return 0, err
		}
		b.rest = m.data
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close implements io.Closer. What is left of the body is not read.
func (b *webBody) Close() error {
	b.rest, b.err = nil, http.ErrBodyReadAfterClose
	return nil
}

// webWriter is the answer to a request that is not gRPC.
type webWriter struct {
	st      *stream
	header  http.Header
	started bool
	buf     []byte
}

// webBuffer is what a handler may write before it is sent; an answer that fits has a Content-Length.
const webBuffer = 4 << 10

// Header implements http.ResponseWriter.
func (w *webWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *webWriter) WriteHeader(code int) {
	if w.started || code < 200 { // informational answers are left out
		return
	}
	w.started = true
	st := w.st
	st.c.mu.Lock()
	defer st.c.mu.Unlock()
	if st.closed != nil {
		return
	}
	o := &st.c.mu.out
	at := o.begin(http2.FrameHeaders, st.id)
	o.openBlock()
	o.status(code)
	names := make([]string, 0, len(w.header))
	for name := range w.header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		lower := strings.ToLower(name)
		if !httpguts.ValidHeaderFieldName(name) || slices.Contains(hopByHop, lower) {
			continue
		}
		for _, v := range w.header[name] {
			if httpguts.ValidHeaderFieldValue(v) {
				o.literal(lower, v)
			}
		}
	}
	o.end(at, 0)
	st.sent.headers = true
	st.c.answered()
}

var hopByHop = []string{"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"}

// Write implements io.Writer.
func (w *webWriter) Write(p []byte) (int, error) {
	if w.st.request.method == http.MethodHead {
		return len(p), nil
	}
	w.buf = append(w.buf, p...)
	if len(w.buf) < webBuffer {
		return len(p), nil
	}
	return len(p), w.flush()
}

// Flush implements http.Flusher.
func (w *webWriter) Flush() { _ = w.flush() } // the next Write fails, too

func (w *webWriter) flush() error {
	if !w.started {
		w.sniff()
		w.WriteHeader(http.StatusOK)
	}
	b := w.buf
	w.buf = nil
	err := w.st.send(w.st.ctx, b)
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (w *webWriter) sniff() {
	if len(w.buf) > 0 && w.header.Get("Content-Type") == "" {
		w.header.Set("Content-Type", http.DetectContentType(w.buf))
	}
}

func (w *webWriter) end() {
	if !w.started {
		w.sniff()
		if w.st.request.method != http.MethodHead && w.header.Get("Content-Length") == "" {
			w.header.Set("Content-Length", strconv.Itoa(len(w.buf)))
		}
		w.WriteHeader(http.StatusOK)
	}
	w.st.c.mu.Lock()
	defer w.st.c.mu.Unlock()
	w.st.keep(w.buf)
	w.st.finish(nil)
}

// abort ends an answer that cannot be completed.
func (w *webWriter) abort() {
	c := w.st.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.st.closed == nil {
		c.resetLocked(w.st.id, http2.ErrCodeInternal)
		c.close(w.st, errReset)
	}
}
