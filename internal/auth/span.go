package auth

import (
	"bytes"
	"slices"
)

// span is the keys [lo, hi), or all keys from lo on when open is set. The open end is a field and not a
// special hi: a range without an upper limit must never be mistaken for one key or for an empty range.
type span struct {
	lo, hi []byte
	open   bool
}

// spans is a set of keys: ascending spans that neither overlap nor touch, so that a range is in the set
// exactly if one span holds all of it.
type spans []span

// isOpen reports whether the end of a range means that there is none.
func isOpen(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// newSpan reads the range of a permission; ok is false for one that holds no key.
func newSpan(key, end []byte) (s span, ok bool) {
	switch {
	case len(key) == 0:
		return span{}, false
	case len(end) == 0:
		return span{lo: key, hi: append(slices.Clone(key), 0)}, true
	case isOpen(end):
		return span{lo: key, open: true}, true
	}
	return span{lo: key, hi: end}, bytes.Compare(key, end) < 0
}

// merge returns the union of the given spans, in any order. It sorts all in place.
func merge(all []span) spans {
	slices.SortFunc(all, func(a, b span) int { return bytes.Compare(a.lo, b.lo) })
	var merged spans
	for _, s := range all {
		if len(merged) == 0 {
			merged = append(merged, s)
			continue
		}
		last := &merged[len(merged)-1]
		switch {
		case last.open:
			return merged
		case bytes.Compare(s.lo, last.hi) > 0:
			merged = append(merged, s)
		case s.open:
			last.hi, last.open = nil, true
		case bytes.Compare(s.hi, last.hi) > 0:
			last.hi = s.hi
		}
	}
	return merged
}

// covers reports whether every key of a request's range is in the set. A range that is upside down or empty
// is treated as its first key; see shape for what else such a range must fulfil.
func (all spans) covers(key, end []byte) bool {
	// The last span that begins at or before key is the only one that can hold it.
	lo, hi := 0, len(all)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if bytes.Compare(all[mid].lo, key) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return false
	}
	s := &all[lo-1]
	switch {
	case s.open:
		return true
	case bytes.Compare(key, s.hi) >= 0, isOpen(end):
		return false
	}
	return len(end) == 0 || bytes.Compare(end, s.hi) <= 0
}
