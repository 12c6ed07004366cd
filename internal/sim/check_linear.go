package sim

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// linearPatience bounds the search for an order of one key's operations. A search takes milliseconds; one that takes
// this long has found nothing wrong yet, and counts as that.
const linearPatience = 20 * time.Second

// input and output are an operation as the model of a key sees it.
type (
	input struct {
		kind          kind
		value, expect string
	}
	output struct {
		known            bool
		found            string
		swapped, removed bool
	}
)

// register is a key: "" if there is none.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, in, out any) (bool, any) {
		now, i, o := state.(string), in.(input), out.(output)
		switch i.kind {
		case opPut:
			return true, i.value
		case opDelete:
			return !o.known || o.removed == (now != ""), ""
		case opSwap:
			if fits := now == i.expect; o.known && o.swapped != fits {
				return false, now
			} else if fits {
				return true, i.value
			}
			return true, now
		}
		return o.found == now, now
	},
}

// linearizable holds that for each key there is an order of all operations, each between its call and its return,
// that explains every answer. An operation without an answer may come at any time after its call, but only if some
// member has applied it.
func (c *dataCheck) linearizable() {
	byKey := map[string][]porcupine.Operation{}
	for _, op := range c.operations {
		if op.kind == opStale || op.kind == opRange || !op.known && !c.log.appliedRequest(op.request) {
			continue
		}
		returned := op.returned
		if !op.known {
			returned = c.now
		}
		byKey[op.key] = append(byKey[op.key], porcupine.Operation{ClientId: op.client, Call: int64(op.invoked), Return: int64(returned),
			Input: input{op.kind, op.value, op.expect}, Output: output{op.known, op.found, op.swapped, op.removed}})
	}
	for i := range c.shape.keys {
		key := dataKey(i)
		if porcupine.CheckOperationsTimeout(register, byKey[key], linearPatience) == porcupine.Illegal {
			c.violated("linearizability", "no order of the %d operations on %s explains what clients were told", len(byKey[key]), key)
			return
		}
	}
}
