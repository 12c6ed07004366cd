package watch

// span is the set of keys that a watch covers: [lo, hi), or everything from lo on when open is set. A
// single key is the span up to its successor, marked because most watches are that.
type span struct {
	lo, hi string
	open   bool
	single bool
}

// newSpan reads a key and a range end as clients send them; ok is false if the range is empty. An empty
// key is the smallest one, "\0"; an empty end means the single key and the end "\0" no upper limit.
func newSpan(key, end []byte) (s span, ok bool) {
	s.lo = string(key)
	if len(key) == 0 {
		s.lo = "\x00"
	}
	switch {
	case len(end) == 0:
		s.single = true
		s.hi = s.lo + "\x00"
	case len(end) == 1 && end[0] == 0:
		s.open = true
	default:
		s.hi = string(end)
		if s.lo >= s.hi {
			return span{}, false
		}
	}
	return s, true
}

func (s *span) contains(key []byte) bool {
	if s.single {
		return string(key) == s.lo
	}
	return string(key) >= s.lo && (s.open || string(key) < s.hi)
}

// bounds returns the span as a key and a range end.
func (s *span) bounds() (key, end []byte) {
	switch {
	case s.single:
		return []byte(s.lo), nil
	case s.open:
		return []byte(s.lo), []byte{0}
	}
	return []byte(s.lo), []byte(s.hi)
}

// all covers every key, as a key and a range end.
var all = []byte{0}
