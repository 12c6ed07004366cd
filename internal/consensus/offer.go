package consensus

import (
	"slices"
	"sync/atomic"
)

// Offer is the state of one proposal between its proposer, who may lose patience, and the loop, which offers it to raft.
// What raft has taken may enter the log at any time, and a client that is told to try again would write twice; so a
// proposer that has waited too long has to know which it is. The zero value is a proposal that waits.
type Offer struct{ state atomic.Int32 }

const (
	offerWaits     = iota
	offerMade      // raft has it, or is about to
	offerWithdrawn // raft never will
)

// Withdraw takes the proposal back and reports whether that was in time: then it never enters the log, and nothing is
// known to the contrary. Dropped may be called for it all the same. Any goroutine may call it.
func (o *Offer) Withdraw() bool {
	return o.state.CompareAndSwap(offerWaits, offerWithdrawn) || o.state.Load() == offerWithdrawn
}

// makeOffers says that raft gets proposals now, except those that were withdrawn before. The others cannot be any more.
func makeOffers(ps []waitingProposal) (offered, withdrawn []waitingProposal) {
	late := func(p waitingProposal) bool {
		return p.Offer != nil && !p.Offer.state.CompareAndSwap(offerWaits, offerMade)
	}
	for i, p := range ps {
		if late(p) {
			if withdrawn == nil {
				offered = slices.Clone(ps[:i])
			}
			withdrawn = append(withdrawn, p)
		} else if withdrawn != nil {
			offered = append(offered, p)
		}
	}
	if withdrawn == nil {
		return ps, nil
	}
	return offered, withdrawn
}

// takeBack says that raft has not taken proposals and may be offered them again.
func takeBack(ps []waitingProposal) {
	for _, p := range ps {
		if p.Offer != nil {
			p.Offer.state.Store(offerWaits)
		}
	}
}
