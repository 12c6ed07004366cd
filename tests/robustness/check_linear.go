package robustness

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearPatience bounds the search for an order of one key's operations, which takes milliseconds. One that takes this
// long has found nothing wrong yet; the caller is told.
const linearPatience = 20 * time.Second

// register is a key as porcupine sees it: "" if there is none. Inputs and outputs are operations; an operation of which
// no client knows the outcome is only in the history if it happened.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, _, answer any) (bool, any) {
		now, op := state.(string), answer.(*operation)
		switch op.kind {
		case opPut:
			return !op.known || !op.prior || op.found == now, op.value
		case opDelete:
			return !op.known || op.removed == (now != ""), ""
		case opSwap:
			if !op.known || op.swapped {
				return now == op.expect, op.value
			}
			return now != op.expect && op.found == now, now
		}
		return op.found == now, now
	},
	DescribeOperation: func(_, answer any) string { return answer.(*operation).String() },
	DescribeState:     func(state any) string { return fmt.Sprintf("%q", state) },
}

// checkLinear holds that for each key there is an order of all operations, each between its call and its return, that
// explains every answer. Of a write with an unknown outcome the past says whether it happened, and the first watcher that
// was told of it, by when; one that did not happen by the end never does.
//
// It returns what is wrong, and how many keys were given up.
func checkLinear(operations []*operation, p *past) (wrong []string, givenUp int) {
	happened := map[string]time.Duration{}
	for _, t := range p.revisions {
		for _, e := range t.events {
			if !e.deleted {
				happened[e.value] = t.at
			}
		}
	}
	byKey := map[string][]porcupine.Operation{}
	for _, op := range operations {
		if op.kind == opStale || op.kind == opList || op.lease != 0 {
			continue
		}
		returned := op.returned
		if !op.known {
			at, found := happened[op.value]
			if !found {
				continue
			}
			returned = max(at, op.called)
		}
		byKey[op.key] = append(byKey[op.key], porcupine.Operation{ClientId: op.client, Call: int64(op.called), Return: int64(returned),
			Input: op, Output: op})
	}
	var all complaints
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		switch porcupine.CheckOperationsTimeout(register, byKey[key], linearPatience) {
		case porcupine.Illegal:
			all.addf("no order of the %d operations on %s explains what clients were told", len(byKey[key]), key)
		case porcupine.Unknown:
			givenUp++
		}
	}
	return all, givenUp
}
