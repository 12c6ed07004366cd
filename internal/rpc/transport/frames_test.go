package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

// raw is a client that says what it wants, frame by frame.
type raw struct {
	*http2.Framer
	t    *testing.T
	conn net.Conn
	enc  *hpack.Encoder
	buf  bytes.Buffer
}

func dialRaw(t *testing.T, p *place, settings ...http2.Setting) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", p.address)
	require.NoError(t, err)
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	t.Cleanup(func() { _ = conn.Close() })
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	r := &raw{Framer: http2.NewFramer(conn, conn), t: t, conn: conn}
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.enc = hpack.NewEncoder(&r.buf)
	require.NoError(t, r.WriteSettings(settings...))
	return r
}

func (r *raw) block(fields ...string) []byte {
	r.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		require.NoError(r.t, r.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(r.buf.Bytes())
}

func (r *raw) call(id uint32, method string, more ...string) {
	block := r.block(append([]string{":method", "POST", ":scheme", "http", ":path", "/grpc.testing.TestService/" + method,
		":authority", "a", "content-type", "application/grpc", "te", "trailers"}, more...)...)
	// Errors of writing are those of a connection that the server has ended, which reading shows.
	_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
}

func framed(m proto.Message) []byte {
	b, _ := proto.Marshal(m)
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// until reads frames until one is what f looks for.
func (r *raw) until(f func(http2.Frame) bool) {
	r.t.Helper()
	for {
		frame, err := r.ReadFrame()
		require.NoError(r.t, err)
		if f(frame) {
			return
		}
	}
}

// goAway reads until the server has ended the connection, and returns why.
func (r *raw) goAway() (code http2.ErrCode, debug string) {
	r.t.Helper()
	for {
		frame, err := r.ReadFrame()
		if err != nil {
			require.NotEmpty(r.t, debug, "no GOAWAY before %v", err)
			return code, debug
		}
		if g, ok := frame.(*http2.GoAwayFrame); ok {
			code, debug = g.ErrCode, string(g.DebugData())
		}
	}
}

func TestFloods(t *testing.T) {
	for name, flood := range map[string]func(r *raw, i int){
		"rapid reset": func(r *raw, i int) {
			id := uint32(2*i + 1)
			r.call(id, "EmptyCall")
			_ = r.WriteRSTStream(id, http2.ErrCodeCancel)
		},
		"settings":      func(r *raw, _ int) { _ = r.WriteSettings() },
		"priority":      func(r *raw, _ int) { _ = r.WritePriority(1, http2.PriorityParam{StreamDep: 3}) },
		"small windows": func(r *raw, _ int) { _ = r.WriteWindowUpdate(0, 1) },
		"unknown":       func(r *raw, _ int) { _ = r.WriteRawFrame(0x99, 0, 0, nil) },
		"padded data": func(r *raw, i int) {
			if i == 0 {
				r.call(1, "StreamingInputCall")
			}
			_ = r.WriteDataPadded(1, false, nil, make([]byte, 1))
		},
		"empty data": func(r *raw, i int) {
			if i == 0 {
				r.call(1, "StreamingInputCall")
			}
			_ = r.WriteData(1, false, nil)
		},
		"continuation": func(r *raw, i int) {
			if i == 0 {
				_ = r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(":method", "POST")})
			}
			_ = r.WriteContinuation(1, false, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := dialRaw(t, start(t, nil))
			done := make(chan struct{})
			go func() {
				defer close(done)
				for i := range 3 * budgetMax {
					flood(r, i)
				}
			}()
			code, debug := r.goAway()
			require.Equal(t, http2.ErrCodeEnhanceYourCalm, code)
			require.Equal(t, errFlood.debug, debug)
			require.NoError(t, r.conn.Close())
			<-done
		})
	}
}

// TestPings: a client may ping at the interval that the server tolerates, and no more often.
func TestPings(t *testing.T) {
	r := dialRaw(t, start(t, func(c *Config) { c.KeepAliveMinTime = time.Hour }))
	for range maxPingStrikes + 2 {
		require.NoError(t, r.WritePing(false, [8]byte{1}))
	}
	code, debug := r.goAway()
	require.Equal(t, http2.ErrCodeEnhanceYourCalm, code)
	require.Equal(t, "too_many_pings", debug)

	p := newPingPolicy(0)
	now := time.Now()
	require.True(t, p.allow(now, false, true))
	for range 100 {
		require.True(t, p.allow(now, true, true), "it has got something meanwhile")
	}
	for range 10 {
		now = now.Add(defaultPingMinTime)
		require.True(t, p.allow(now, false, true))
	}
	for range maxPingStrikes {
		require.True(t, p.allow(now, false, true))
	}
	require.False(t, p.allow(now, false, true))
}

// TestHeaderList: a header that is too large costs its request, not the connection.
func TestHeaderList(t *testing.T) {
	r := dialRaw(t, start(t, nil))
	block := r.block(":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a", "x", strings.Repeat("~", maxHeaderList-100))
	require.NoError(t, r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:10000]}))
	for block = block[10000:]; len(block) > 0; {
		n := min(len(block), 10000)
		require.NoError(t, r.WriteContinuation(1, n == len(block), block[:n]))
		block = block[n:]
	}
	r.until(func(f http2.Frame) bool {
		reset, ok := f.(*http2.RSTStreamFrame)
		if ok {
			require.Equal(t, http2.ErrCodeFrameSize, reset.ErrCode)
		}
		return ok
	})
	r.call(3, "UnaryCall")
	require.NoError(t, r.WriteData(3, true, framed(&testpb.SimpleRequest{})))
	r.until(func(f http2.Frame) bool {
		return f.Header().StreamID == 3 && f.Header().Flags.Has(http2.FlagHeadersEndStream)
	})
}

// TestLargeMessages: messages above their streams' windows take turns, and all of them come through, however they are mixed.
func TestLargeMessages(t *testing.T) {
	p := start(t, func(c *Config) { c.MaxRecvBytes = 48 << 20 })
	r := dialRaw(t, p, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	const streams, size = 4, 40 << 20 // two do not fit maxLarge together
	full := framed(&testpb.SimpleRequest{Payload: &testpb.Payload{Body: make([]byte, size)}})
	windows, rest, whole := map[uint32]int{}, map[uint32][]byte{}, initialWindow
	for i := range uint32(streams) {
		r.call(2*i+1, "UnaryCall")
		windows[2*i+1], rest[2*i+1] = initialWindow, full
	}
	answered, granted := 0, map[uint32]bool{}
	for answered < streams {
		for id, b := range rest {
			for len(b) > 0 && windows[id] > 0 && whole > 0 {
				n := min(len(b), windows[id], whole, maxFrame)
				require.NoError(t, r.WriteData(id, n == len(b), b[:n]))
				windows[id] -= n
				whole -= n
				b = b[n:]
			}
			rest[id] = b
		}
		r.until(func(f http2.Frame) bool {
			switch f := f.(type) {
			case *http2.WindowUpdateFrame:
				if f.StreamID == 0 {
					whole += int(f.Increment)
				} else {
					windows[f.StreamID] += int(f.Increment)
					granted[f.StreamID] = granted[f.StreamID] || f.Increment > maxLarge/4
				}
				return true
			case *http2.SettingsFrame:
				v, ok := f.Value(http2.SettingInitialWindowSize)
				if ok {
					for id := range windows {
						windows[id] += int(v) - initialWindow
					}
				}
				return ok
			case *http2.MetaHeadersFrame:
				if f.StreamEnded() {
					answered++
					require.Empty(t, rest[f.StreamID])
					return true
				}
			case *http2.GoAwayFrame:
				require.Fail(t, "the connection was ended", "%v %s", f.ErrCode, f.DebugData())
			}
			return false
		})
	}
	require.Len(t, granted, streams)
}

// TestRefused: streams beyond the limit are refused, and a client may try them again.
func TestRefused(t *testing.T) {
	p := start(t, func(c *Config) { c.MaxConcurrentStreams = 2 })
	r := dialRaw(t, p)
	for id := uint32(1); id <= 5; id += 2 {
		r.call(id, "FullDuplexCall")
	}
	r.until(func(f http2.Frame) bool {
		reset, ok := f.(*http2.RSTStreamFrame)
		if ok {
			require.Equal(t, uint32(5), reset.StreamID)
			require.Equal(t, http2.ErrCodeRefusedStream, reset.ErrCode)
		}
		return ok
	})
}

// TestHandlersEnd: when a client goes, resets a stream, or the server is cut, handlers end.
func TestHandlersEnd(t *testing.T) {
	for name, end := range map[string]func(r *raw, p *place){
		"reset":   func(r *raw, _ *place) { require.NoError(t, r.WriteRSTStream(1, http2.ErrCodeCancel)) },
		"closed":  func(r *raw, _ *place) { require.NoError(t, r.conn.Close()) },
		"garbage": func(r *raw, _ *place) { require.NoError(t, r.WriteRawFrame(http2.FramePing, 0, 1, make([]byte, 8))) },
		"cut": func(_ *raw, p *place) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.ErrorIs(t, p.Shutdown(ctx), context.Canceled)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, nil)
			r := dialRaw(t, p)
			r.call(1, "FullDuplexCall")
			require.Eventually(t, func() bool { return p.service.running.Load() == 1 }, 10*time.Second, time.Millisecond)
			end(r, p)
			require.Eventually(t, func() bool { return p.service.running.Load() == 0 }, 10*time.Second, time.Millisecond)
		})
	}
}

// TestShutdown: requests under way end as they would, new ones are not taken, and the client knows which.
func TestShutdown(t *testing.T) {
	p := start(t, nil)
	c := dial(t, p.address)
	ctx := testContext(t)
	answered := make(chan error, 1)
	go func() {
		_, err := c.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Message: "block"}})
		answered <- err
	}()
	require.Eventually(t, func() bool { return p.service.running.Load() == 1 }, 10*time.Second, time.Millisecond)
	stopped := make(chan error, 1)
	go func() { stopped <- p.Shutdown(ctx) }()
	require.ErrorIs(t, <-p.served, ErrStopped)
	p.served <- nil
	require.Empty(t, stopped)
	close(p.service.block)
	require.NoError(t, <-answered)
	require.NoError(t, <-stopped)
	_, err := c.EmptyCall(ctx, &testpb.Empty{})
	require.Error(t, err)
}

// TestKeepAlive: a client that answers nothing loses its connection, and one that does keeps it.
func TestKeepAlive(t *testing.T) {
	p := start(t, func(c *Config) { c.KeepAliveInterval, c.KeepAliveTimeout = 20*time.Millisecond, 50*time.Millisecond })
	r := dialRaw(t, p)
	pings := 0
	for {
		f, err := r.ReadFrame()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if ping, ok := f.(*http2.PingFrame); ok {
			if pings++; pings < 4 {
				require.NoError(t, r.WritePing(true, ping.Data))
			}
		}
	}
	require.Equal(t, 4, pings)
}

// TestLateEnd: a client that ends its side after its message gets one answer, of one handler.
func TestLateEnd(t *testing.T) {
	for name, end := range map[string]func(r *raw){
		"data":        func(r *raw) { require.NoError(t, r.WriteData(1, true, nil)) },
		"another one": func(r *raw) { require.NoError(t, r.WriteData(1, true, framed(&testpb.SimpleRequest{}))) },
		"header and end": func(r *raw) {
			block := r.block("x-trailer", "v")
			require.NoError(t, r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true, EndStream: true}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, nil)
			r := dialRaw(t, p)
			r.call(1, "UnaryCall")
			require.NoError(t, r.WriteData(1, false, framed(&testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Message: "block"}})))
			require.Eventually(t, func() bool { return p.service.running.Load() == 1 }, 10*time.Second, time.Millisecond)
			end(r)
			require.NoError(t, r.WritePing(false, [8]byte{3}))
			r.until(func(f http2.Frame) bool { ping, ok := f.(*http2.PingFrame); return ok && ping.IsAck() })
			require.Equal(t, int64(1), p.service.running.Load())
			close(p.service.block)
			r.until(func(f http2.Frame) bool {
				h, ok := f.(*http2.MetaHeadersFrame)
				if ok && h.StreamEnded() {
					require.Equal(t, "0", statusOf(h))
				}
				return ok && h.StreamEnded()
			})
		})
	}
}

func statusOf(h *http2.MetaHeadersFrame) string {
	for _, f := range h.Fields {
		if f.Name == "grpc-status" {
			return f.Value
		}
	}
	return ""
}

// TestWeb: requests that are not gRPC get their handler's answer.
func TestWeb(t *testing.T) {
	p := start(t, nil)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	get := func(method, path, body string) (int, string, http.Header, error) {
		r, err := http.NewRequestWithContext(testContext(t), method, "http://"+p.address+path, strings.NewReader(body))
		require.NoError(t, err)
		res, err := client.Do(r)
		if err != nil {
			return 0, "", nil, err
		}
		text, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		return res.StatusCode, string(text), res.Header, nil
	}
	code, text, header, err := get(http.MethodGet, "/", "")
	require.NoError(t, err)
	require.Equal(t, "hello "+p.address, text)
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "text/plain; charset=utf-8", header.Get("Content-Type"))
	large := strings.Repeat("0123456789", 100_000)
	code, text, _, err = get(http.MethodPost, "/echo", large)
	require.NoError(t, err)
	require.Equal(t, http.StatusAccepted, code)
	require.Equal(t, large, text)
	_, _, _, err = get(http.MethodGet, "/panic", "")
	require.Error(t, err)
	code, text, header, err = get(http.MethodHead, "/", "")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, code)
	require.Empty(t, text)
	require.NotNil(t, header)
}

// inPlaceAnswer is a Raw.
type inPlaceAnswer struct{ proto.Message }

func (a inPlaceAnswer) Size() int { return proto.Size(a.Message) }
func (a inPlaceAnswer) AppendTo(b []byte) []byte {
	b, _ = proto.MarshalOptions{}.MarshalAppend(b, a.Message)
	return b
}

// TestDirect: a method that answers on the reader gives what its handler would.
func TestDirect(t *testing.T) {
	p := start(t, nil)
	direct := 0
	p.Direct("/grpc.testing.TestService/UnaryCall", func(c *Call) bool {
		var r testpb.SimpleRequest
		require.NoError(t, proto.Unmarshal(c.Message(), &r))
		if r.GetResponseStatus().GetCode() != 0 {
			return false
		}
		direct++
		v, ok := c.Field("x-text")
		require.Equal(t, ok, v != "")
		c.Answer(inPlaceAnswer{&testpb.SimpleResponse{Payload: &testpb.Payload{Body: make([]byte, r.GetResponseSize())}, Username: v}})
		return true
	})
	c := dial(t, p.address)
	ctx := testContext(t)
	for _, size := range []int32{0, 1, 16_000, 16_384, 100_000, 3_000_000} {
		resp, err := c.UnaryCall(ctx, &testpb.SimpleRequest{ResponseSize: size})
		require.NoError(t, err)
		require.Len(t, resp.GetPayload().GetBody(), int(size))
	}
	_, err := c.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: 5, Message: "by the handler"}})
	require.ErrorContains(t, err, "by the handler")
	require.Equal(t, 6, direct)
}
