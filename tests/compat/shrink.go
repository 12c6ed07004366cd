package compat

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// shrink returns a short sequence that still fails, starting from steps, which do. First it leaves out ever smaller
// runs of steps (delta debugging), then it simplifies the requests that remain. It gives up when the time is over.
func shrink(steps []Step, fails func([]Step) bool, limit time.Duration) []Step {
	end := time.Now().Add(limit)
	inTime := func() bool { return time.Now().Before(end) }
	for size := len(steps) / 2; size >= 1 && inTime(); {
		removed := false
		for from := 0; from < len(steps) && inTime(); {
			shorter := append(append([]Step{}, steps[:from]...), steps[min(from+size, len(steps)):]...)
			if len(shorter) > 0 && fails(shorter) {
				steps, removed = shorter, true
				continue
			}
			from += size
		}
		if !removed || size > 1 {
			if size == 1 {
				break
			}
			size = max(1, size/2)
		}
	}
	for i := 0; i < len(steps) && inTime(); i++ {
		steps = simplifyStep(steps, i, fails, inTime)
	}
	return steps
}

// simplifyStep makes the request of one step as small as it can be.
func simplifyStep(steps []Step, i int, fails func([]Step) bool, inTime func() bool) []Step {
	for _, edit := range []func(*Step){func(s *Step) { s.Joined = false }, func(s *Step) { s.User = "" }} {
		candidate := append([]Step{}, steps...)
		if edit(&candidate[i]); candidate[i] != steps[i] && fails(candidate) {
			steps = candidate
		}
	}
	if steps[i].Req == nil {
		return steps
	}
again:
	for _, simpler := range simplifications(steps[i].Req) {
		if !inTime() {
			break
		}
		candidate := append([]Step{}, steps...)
		candidate[i].Req = simpler
		if fails(candidate) {
			steps = candidate
			goto again
		}
	}
	return steps
}

// simplifications returns copies of m, each with one thing less: a field unset, or an element of a list removed, at
// any depth; the largest losses first.
func simplifications(m proto.Message) []proto.Message {
	var out []proto.Message
	// edit gets the message at a path within a copy of m.
	var walk func(path func(protoreflect.Message) protoreflect.Message, at protoreflect.Message)
	walk = func(path func(protoreflect.Message) protoreflect.Message, at protoreflect.Message) {
		fields := at.Descriptor().Fields()
		for n := range fields.Len() { // in a fixed order, so that a sequence always shrinks to the same one
			fd := fields.Get(n)
			if !at.Has(fd) {
				continue
			}
			v := at.Get(fd)
			edited := func(edit func(protoreflect.Message)) {
				c := proto.Clone(m)
				edit(path(c.ProtoReflect()))
				out = append(out, c)
			}
			if fd.Name() == "key" || fd.Name() == "ID" {
				continue // every request needs one; without an ID the server chooses its own
			}
			edited(func(at protoreflect.Message) { at.Clear(fd) })
			switch {
			case fd.IsList():
				for i := range v.List().Len() {
					edited(func(at protoreflect.Message) { removeElement(at, fd, i) })
					if fd.Kind() == protoreflect.MessageKind {
						inner := func(root protoreflect.Message) protoreflect.Message {
							return path(root).Get(fd).List().Get(i).Message()
						}
						walk(inner, v.List().Get(i).Message())
					}
				}
			case fd.Kind() == protoreflect.MessageKind:
				walk(func(root protoreflect.Message) protoreflect.Message { return path(root).Get(fd).Message() }, v.Message())
			}
		}
	}
	walk(func(root protoreflect.Message) protoreflect.Message { return root }, m.ProtoReflect())
	return out
}

func removeElement(m protoreflect.Message, fd protoreflect.FieldDescriptor, i int) {
	list := m.Mutable(fd).List()
	for ; i+1 < list.Len(); i++ {
		list.Set(i, list.Get(i+1))
	}
	list.Truncate(list.Len() - 1)
}
