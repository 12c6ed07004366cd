package lease

import "time"

// The two queues an item can wait in.
const (
	expiring = iota
	checkpointing
	queues
)

// item is a lease as Expiry sees it. Times count from Expiry's base.
type item struct {
	Lease
	expiry time.Duration
	// at is when the item is due in each queue. For expiring it is the expiry, or later while a
	// revocation is on the way.
	at [queues]time.Duration
	// pos is the place in each queue's heap. It is a hint: the item is queued only if that place holds
	// it, so that both queues can be dropped without visiting a million items.
	pos [queues]int32
	// noting is how many checkpoints of this lease were handed out and are not applied yet.
	noting int32
}

// queue is a binary heap of items ordered by at, then ID.
type queue struct {
	kind  int
	items []*item
}

func (q *queue) holds(it *item) bool {
	p := int(it.pos[q.kind])
	return p < len(q.items) && q.items[p] == it
}

func (q *queue) less(a, b *item) bool {
	if a.at[q.kind] != b.at[q.kind] {
		return a.at[q.kind] < b.at[q.kind]
	}
	return a.ID < b.ID
}

// set queues the item for at, or moves it there.
func (q *queue) set(it *item, at time.Duration) {
	it.at[q.kind] = at
	if !q.holds(it) {
		it.pos[q.kind] = int32(len(q.items))
		q.items = append(q.items, it)
	}
	q.fix(int(it.pos[q.kind]))
}

func (q *queue) remove(it *item) {
	if !q.holds(it) {
		return
	}
	p, last := int(it.pos[q.kind]), len(q.items)-1
	moved := q.items[last]
	q.items[last] = nil
	q.items = q.items[:last]
	if p < last {
		q.place(moved, p)
		q.fix(p)
	}
}

func (q *queue) place(it *item, p int) {
	q.items[p] = it
	it.pos[q.kind] = int32(p)
}

func (q *queue) fix(p int) {
	it := q.items[p]
	for p > 0 && q.less(it, q.items[(p-1)/2]) {
		q.place(q.items[(p-1)/2], p)
		p = (p - 1) / 2
	}
	for {
		c := 2*p + 1
		if c >= len(q.items) {
			break
		}
		if c+1 < len(q.items) && q.less(q.items[c+1], q.items[c]) {
			c++
		}
		if !q.less(q.items[c], it) {
			break
		}
		q.place(q.items[c], p)
		p = c
	}
	q.place(it, p)
}
