package transport

import (
	"encoding/binary"

	"golang.org/x/net/http2"
)

// output is the frames that are ready to be sent, encoded, and what their encoding depends on. The connection's lock
// guards it.
type output struct {
	buf, spare []byte
	control    int // frames in buf that answer control frames

	lastStream uint32 // the highest stream that was opened
	window     int64  // of the connection
	initial    int64  // window of a new stream
	frame      int    // the largest frame that the client takes
	fields     fieldTable

	waiting []*stream // that have something to send and must wait for their turn
	held    int64     // bytes that streams keep
}

// keptBuffer is how large a buffer may be to be used again.
const keptBuffer = 256 << 10

func (o *output) init() { o.window, o.initial, o.frame = initialWindow, initialWindow, maxFrame }

func (o *output) empty() bool { return len(o.buf) == 0 }

// take returns what is to be sent, which recycle gives back.
func (o *output) take() []byte {
	b := o.buf
	o.buf, o.spare, o.control = o.spare[:0], nil, 0
	return b
}

func (o *output) recycle(b []byte) {
	if cap(b) <= keptBuffer {
		o.spare = b[:0]
	}
}

const frameHeader = 9

func (o *output) header(n int, t http2.FrameType, flags http2.Flags, id uint32) {
	o.buf = append(o.buf, byte(n>>16), byte(n>>8), byte(n), byte(t), byte(flags))
	o.buf = binary.BigEndian.AppendUint32(o.buf, id)
}

func (o *output) settings(all []http2.Setting) {
	o.header(6*len(all), http2.FrameSettings, 0, 0)
	for _, s := range all {
		o.buf = binary.BigEndian.AppendUint16(o.buf, uint16(s.ID))
		o.buf = binary.BigEndian.AppendUint32(o.buf, s.Val)
	}
}

func (o *output) settingsAck() {
	o.control++
	o.header(0, http2.FrameSettings, http2.FlagSettingsAck, 0)
}

func (o *output) ping(ack bool, data [8]byte) {
	var flags http2.Flags
	if ack {
		o.control++
		flags = http2.FlagPingAck
	}
	o.header(len(data), http2.FramePing, flags, 0)
	o.buf = append(o.buf, data[:]...)
}

func (o *output) windowUpdate(id uint32, n int64) {
	o.header(4, http2.FrameWindowUpdate, 0, id)
	o.buf = binary.BigEndian.AppendUint32(o.buf, uint32(n))
}

func (o *output) reset(id uint32, code http2.ErrCode) {
	o.control++
	o.header(4, http2.FrameRSTStream, 0, id)
	o.buf = binary.BigEndian.AppendUint32(o.buf, uint32(code))
}

func (o *output) goAway(last uint32, code http2.ErrCode, debug string) {
	o.header(8+len(debug), http2.FrameGoAway, 0, 0)
	o.buf = binary.BigEndian.AppendUint32(o.buf, last)
	o.buf = binary.BigEndian.AppendUint32(o.buf, uint32(code))
	o.buf = append(o.buf, debug...)
}

// begin reserves a frame whose payload the caller appends to buf; end fills in its length.
func (o *output) begin(t http2.FrameType, id uint32) (at int) {
	at = len(o.buf)
	o.header(0, t, 0, id)
	return at
}

// end completes the frame that begin reserved. A header block that is larger than a frame is cut into CONTINUATION frames.
func (o *output) end(at int, flags http2.Flags) {
	n := len(o.buf) - at - frameHeader
	t := http2.FrameType(o.buf[at+3])
	if t == http2.FrameHeaders && n > o.frame {
		o.endLarge(at, flags)
		return
	}
	if t == http2.FrameHeaders {
		flags |= http2.FlagHeadersEndHeaders
	}
	o.buf[at], o.buf[at+1], o.buf[at+2], o.buf[at+4] = byte(n>>16), byte(n>>8), byte(n), byte(flags)
}

func (o *output) endLarge(at int, flags http2.Flags) {
	id := binary.BigEndian.Uint32(o.buf[at+5:])
	block := append([]byte(nil), o.buf[at+frameHeader:]...)
	o.buf = o.buf[:at]
	t := http2.FrameHeaders
	for first := true; first || len(block) > 0; first = false {
		part := block[:min(len(block), o.frame)]
		block = block[len(part):]
		if len(block) == 0 {
			flags |= http2.FlagHeadersEndHeaders
		}
		o.header(len(part), t, flags, id)
		o.buf = append(o.buf, part...)
		t, flags = http2.FrameContinuation, 0
	}
}

// fieldTable is what the client's HPACK decoder has of ours (RFC 7541): the two fields that all answers have, unless
// the client wants no table. Everything else is sent as literals that enter no table.
type fieldTable struct {
	plain       bool // the client's table is smaller than RFC 9113's default: use none
	sayEmpty    bool // and it has to be told so, once
	contentType int  // index; 0 = not in the table yet
	statusOK    int
}

const (
	// Indices of RFC 7541's static table.
	staticStatus200   = 8
	staticContentType = 31
	firstDynamic      = 62
)

// tableSize is for a change of the client's SETTINGS_HEADER_TABLE_SIZE.
func (f *fieldTable) tableSize(n uint32) {
	if n < 4096 && !f.plain {
		f.plain, f.sayEmpty = true, true
		f.contentType, f.statusOK = 0, 0
	}
}

// open appends what begins a header block.
func (o *output) openBlock() {
	if o.fields.sayEmpty {
		o.fields.sayEmpty = false
		o.buf = append(o.buf, 0x20) // dynamic table size update to 0
	}
}

func (o *output) indexed(i int) { o.buf = append(o.buf, 0x80|byte(i)) }

// status appends :status.
func (o *output) status(code int) {
	if code == 200 {
		o.indexed(staticStatus200)
		return
	}
	o.buf = append(o.buf, staticStatus200) // literal without indexing, name 8
	o.text([]byte{byte('0' + code/100), byte('0' + code/10%10), byte('0' + code%10)})
}

const grpcContentType = "application/grpc"

// responseHeaders appends the two fields that each answer begins with.
func (o *output) responseHeaders(contentType string) {
	o.indexed(staticStatus200)
	f := &o.fields
	switch {
	case contentType != grpcContentType || f.plain:
		o.literal("content-type", contentType)
	case f.contentType > 0:
		o.indexed(f.contentType)
	default:
		o.buf = append(o.buf, 0x40|staticContentType) // literal with incremental indexing
		o.text([]byte(grpcContentType))
		f.contentType = firstDynamic
		if f.statusOK > 0 {
			f.statusOK++
		}
	}
}

// grpcStatusOK appends grpc-status 0.
func (o *output) grpcStatusOK() {
	f := &o.fields
	switch {
	case f.plain:
		o.literal("grpc-status", "0")
	case f.statusOK > 0:
		o.indexed(f.statusOK)
	default:
		o.buf = append(o.buf, 0x40)
		o.text([]byte("grpc-status"))
		o.text([]byte("0"))
		f.statusOK = firstDynamic
		if f.contentType > 0 {
			f.contentType++
		}
	}
}

// literal appends a field that enters no table.
func (o *output) literal(name, value string) {
	o.buf = append(o.buf, 0)
	o.text([]byte(name))
	o.text([]byte(value))
}

// text appends a string literal without Huffman coding: RFC 7541, 5.2, with the integer of 5.1.
func (o *output) text(s []byte) {
	n := len(s)
	if n < 127 {
		o.buf = append(o.buf, byte(n))
	} else {
		o.buf = append(o.buf, 127)
		for n -= 127; n >= 128; n >>= 7 {
			o.buf = append(o.buf, byte(n)|0x80)
		}
		o.buf = append(o.buf, byte(n))
	}
	o.buf = append(o.buf, s...)
}
