package consensus

// readRounds batches linearizable reads: all that wait in a turn share one read-index round. It is pure; time is in
// ticks.
type readRounds struct {
	nextID   uint64
	waiting  []reader // no round yet
	rounds   []readRound
	retry    uint64 // ticks after which an unanswered round is repeated
	deadline uint64 // ticks after which a reader is given up
}

// maxReadRounds bounds the rounds under way. With one, a read that just misses a round waits for two; more than a
// few only multiply heartbeats.
const maxReadRounds = 4

type reader struct {
	done  func(uint64, error)
	since uint64
}

type readRound struct {
	id      uint64
	asked   uint64
	readers []reader
}

func (r *readRounds) add(now uint64, done []func(uint64, error)) {
	for _, d := range done {
		r.waiting = append(r.waiting, reader{done: d, since: now})
	}
}

// start returns the id of a new round for all that wait, if there may be one.
func (r *readRounds) start(now uint64) (uint64, bool) {
	if len(r.waiting) == 0 || len(r.rounds) >= maxReadRounds {
		return 0, false
	}
	id := r.nextID
	r.nextID++
	r.rounds = append(r.rounds, readRound{id: id, asked: now, readers: r.waiting})
	r.waiting = nil
	return id, true
}

// answered returns the readers of a round that has its index. A round before it that is still open has lost its
// answer and stays to be repeated.
func (r *readRounds) answered(id uint64) []reader {
	for i := range r.rounds {
		if r.rounds[i].id == id {
			readers := r.rounds[i].readers
			r.rounds = append(r.rounds[:i], r.rounds[i+1:]...)
			return readers
		}
	}
	return nil
}

// due returns the rounds to repeat.
func (r *readRounds) due(now uint64) []uint64 {
	var ids []uint64
	for i := range r.rounds {
		if now-r.rounds[i].asked >= r.retry {
			r.rounds[i].asked = now
			ids = append(ids, r.rounds[i].id)
		}
	}
	return ids
}

// expired removes and returns the readers that have waited too long.
func (r *readRounds) expired(now uint64) []reader {
	var out []reader
	cut := func(rs []reader) []reader {
		for len(rs) > 0 && now-rs[0].since >= r.deadline {
			out = append(out, rs[0])
			rs = rs[1:]
		}
		return rs
	}
	r.waiting = cut(r.waiting)
	open := r.rounds[:0]
	for _, round := range r.rounds {
		if round.readers = cut(round.readers); len(round.readers) > 0 {
			open = append(open, round)
		}
	}
	clear(r.rounds[len(open):])
	r.rounds = open
	return out
}

// abandoned removes and returns the readers of all rounds under way: their leader is gone. Those without a round
// wait for the next leader.
func (r *readRounds) abandoned() []reader {
	var out []reader
	for _, round := range r.rounds {
		out = append(out, round.readers...)
	}
	r.rounds = nil
	return out
}
