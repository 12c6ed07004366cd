package watch

import "sync/atomic"

type counters struct {
	streams  atomic.Int64
	watchers atomic.Int64
	slow     atomic.Int64
	events   atomic.Int64
	pending  atomic.Int64
}

// Stats are a hub's counts.
type Stats struct {
	Streams  int64 // open streams
	Watchers int64 // watches on them, those ended by a compaction left out
	Slow     int64 // watches that are catching up
	Events   int64 // events handed to streams' readers, ever
	Pending  int64 // events that wait on streams
}

// Stats returns the counts, each true at a moment of its own.
func (h *Hub) Stats() Stats {
	return Stats{
		Streams:  h.stats.streams.Load(),
		Watchers: h.stats.watchers.Load(),
		Slow:     h.stats.slow.Load(),
		Events:   h.stats.events.Load(),
		Pending:  h.stats.pending.Load(),
	}
}
