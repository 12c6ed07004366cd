package transport

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/metadata"
)

// request is what the header of a request says.
type request struct {
	method, scheme, path, authority string
	hosts, authorities              int
	contentType                     string // of the answer, too
	grpc                            bool
	timed                           bool
	timeout                         time.Duration
	encoding                        string
	compressor                      encoding.Compressor // by which messages are compressed both ways; nil = none
	fields                          []hpack.HeaderField // all that is not the transport's own
	length                          int64               // content-length; -1 if there is none
	malformed                       error               // in a way that gRPC has an answer for
}

func (r *request) contentTypeOr(other string) string {
	if r.grpc {
		return r.contentType
	}
	return other
}

// headerBlock gathers the fields of one header block. The reader owns it.
type headerBlock struct {
	id            uint32
	endStream     bool
	dependsOnSelf bool
	continued     int // CONTINUATION frames so far
	bytes         int // of the block

	req      request
	size     int  // of the list, as RFC 9113 counts
	tooLarge bool // further fields are left out
	regular  bool // a field that is no pseudo-header was seen
	invalid  bool // the stream is malformed (RFC 9113, 8.1.1)
	seen     struct{ method, scheme, path, authority bool }
}

// start begins the block of a HEADERS frame.
func (h *headerBlock) start(f *http2.HeadersFrame) {
	*h = headerBlock{id: f.StreamID, endStream: f.StreamEnded(), req: request{length: -1}}
	h.dependsOnSelf = f.HasPriority() && f.Priority.StreamDep == f.StreamID
}

// field takes one field. It must not fail: the decoder has to see the whole block whatever is wrong with it.
func (h *headerBlock) field(f hpack.HeaderField) {
	h.size += int(f.Size())
	if h.tooLarge = h.tooLarge || h.size > maxHeaderList; h.tooLarge {
		return
	}
	if strings.HasPrefix(f.Name, ":") {
		h.pseudo(f)
		return
	}
	h.regular = true
	if !validName(f.Name) || !httpguts.ValidHeaderFieldValue(f.Value) {
		h.invalid = true
		return
	}
	r := &h.req
	switch f.Name {
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		h.invalid = true // RFC 9113, 8.2.2
	case "te":
		h.invalid = h.invalid || f.Value != "trailers"
	case "content-type":
		r.contentType = f.Value
		r.grpc = isGRPC(f.Value)
		r.fields = append(r.fields, f)
	case "content-length":
		n, err := strconv.ParseInt(f.Value, 10, 64)
		if err != nil || n < 0 || r.length >= 0 && r.length != n {
			h.invalid = true
		}
		r.length = n
		r.fields = append(r.fields, f)
	case "grpc-encoding":
		r.encoding = f.Value
	case "grpc-timeout":
		r.timed = true
		var err error
		if r.timeout, err = parseTimeout(f.Value); err != nil && r.malformed == nil {
			r.malformed = fmt.Errorf("malformed grpc-timeout: %w", err)
		}
	case "host":
		r.hosts++
		r.fields = append(r.fields, f)
	case "grpc-message", "grpc-status", "grpc-message-type":
	default:
		r.fields = append(r.fields, f)
	}
}

func (h *headerBlock) pseudo(f hpack.HeaderField) {
	r := &h.req
	if h.regular || !httpguts.ValidHeaderFieldValue(f.Value) {
		h.invalid = true // RFC 9113, 8.3: they come first
	}
	twice := func(seen *bool) {
		h.invalid = h.invalid || *seen
		*seen = true
	}
	switch f.Name {
	case ":method":
		twice(&h.seen.method)
		r.method = f.Value
	case ":scheme":
		twice(&h.seen.scheme)
		r.scheme = f.Value
	case ":path":
		twice(&h.seen.path)
		r.path = f.Value
		h.invalid = h.invalid || f.Value == ""
	case ":authority":
		// gRPC has an answer of its own for more than one.
		r.authorities++
		r.authority = f.Value
	default:
		h.invalid = true
	}
}

// complete reports whether the block is the header of a request.
func (h *headerBlock) complete() bool {
	if h.invalid || !h.seen.method {
		return false
	}
	if h.req.method == "CONNECT" {
		return !h.seen.scheme && !h.seen.path && h.req.authorities == 1
	}
	return h.seen.scheme && h.seen.path
}

// trailer reports whether the block may end a request.
func (h *headerBlock) trailer() bool {
	s := h.seen
	return !h.invalid && !s.method && !s.scheme && !s.path && h.req.authorities == 0
}

// validName reports whether a field's name is one of HTTP/2's: a token in lower case.
func validName(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= 'A' && c <= 'Z' || !httpguts.IsTokenRune(rune(c)) {
			return false
		}
	}
	return len(s) > 0
}

// isGRPC reports whether a content type is gRPC's, of any message format.
func isGRPC(contentType string) bool {
	rest, found := strings.CutPrefix(contentType, grpcContentType)
	return found && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

var (
	errTimeoutFormat = errors.New("it is not one to eight digits and a unit of H, M, S, m, u or n")
	timeoutUnits     = map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}
)

// parseTimeout parses the value of grpc-timeout. What is longer than a Duration can hold is the longest there is.
func parseTimeout(s string) (time.Duration, error) {
	if len(s) < 2 || len(s) > 9 {
		return 0, fmt.Errorf("%q: %w", s, errTimeoutFormat)
	}
	unit, known := timeoutUnits[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if !known || err != nil {
		return 0, fmt.Errorf("%q: %w", s, errTimeoutFormat)
	}
	const longest = 1<<63 - 1
	if n > uint64(longest/unit) {
		return longest, nil
	}
	return time.Duration(n) * unit, nil
}

// metadata returns the fields as a handler sees them.
func (r *request) metadata() metadata.MD {
	md := make(metadata.MD, len(r.fields)+1)
	if r.authorities > 0 {
		md[":authority"] = []string{r.authority}
	}
	for _, f := range r.fields {
		v := f.Value
		if strings.HasSuffix(f.Name, "-bin") {
			v = decodeBinary(v)
		}
		if f.Name == "host" {
			if r.authorities == 0 {
				md[":authority"] = []string{v}
			}
			continue
		}
		md[f.Name] = append(md[f.Name], v)
	}
	return md
}

// checkBinary finds a binary field that is not base64.
func (r *request) checkBinary() {
	for _, f := range r.fields {
		if !strings.HasSuffix(f.Name, "-bin") || r.malformed != nil {
			continue
		}
		if _, err := binaryEncoding(f.Value).DecodeString(f.Value); err != nil {
			r.malformed = fmt.Errorf("malformed binary metadata %q in header %q: %w", f.Value, f.Name, err)
		}
	}
}

func binaryEncoding(v string) *base64.Encoding {
	if len(v)%4 == 0 {
		return base64.StdEncoding
	}
	return base64.RawStdEncoding
}

// decodeBinary decodes what checkBinary has seen.
func decodeBinary(v string) string {
	b, err := binaryEncoding(v).DecodeString(v)
	if err != nil {
		return "" // not reached: such a request is refused
	}
	return string(b)
}
