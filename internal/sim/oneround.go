package sim

import (
	"context"
	"time"
)

// oneRound is a context with which the watch package's waiting methods do what there is to do and then return: they
// look at Done before they wait. With nothing to do the context ends; while the hub has been woken, it does not.
type oneRound struct {
	asked bool
	ended bool
	reads bool // for Stream.Next, which looks at what there is before it looks at Done
}

// Done implements context.Context.
func (c *oneRound) Done() <-chan struct{} {
	if c.asked || c.reads {
		c.ended = true
		ended := make(chan struct{})
		close(ended)
		return ended
	}
	c.asked = true
	return nil
}

// Err implements context.Context.
func (c *oneRound) Err() error {
	if c.ended {
		return context.Canceled
	}
	return nil
}

// Deadline implements context.Context.
func (*oneRound) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value implements context.Context.
func (*oneRound) Value(any) any { return nil }
