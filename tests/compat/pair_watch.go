package compat

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func (p *pair) createWatch(step Step, req *pb.WatchCreateRequest) error {
	stream := step.Stream
	resp, err := p.bothAnswer(func(s *side) (proto.Message, error) {
		if s.logs[stream] == nil {
			log, err := openWatchLog(as(s.ctx, s.known(), step.User), s.conn)
			if err != nil {
				return nil, err
			}
			s.logs[stream] = log
		}
		return s.logs[stream].create(req)
	})
	if err != nil {
		return err
	}
	created := resp.(*pb.WatchResponse)
	if created.Canceled {
		return nil
	}
	if req.StartRevision > 0 && req.StartRevision < p.compacted {
		return p.endCompacted(stream, created.WatchId)
	}
	if p.watches[stream] == nil {
		p.watches[stream] = map[int64]*liveWatch{}
	}
	p.watches[stream][created.WatchId] = &liveWatch{start: req.StartRevision}
	return nil
}

// endCompacted waits for the cancellation of a watch that starts below the compacted revision, and frees its id.
func (p *pair) endCompacted(stream string, id int64) error {
	for _, end := range []func(*watchLog) (*pb.WatchResponse, error){
		func(w *watchLog) (*pb.WatchResponse, error) { return w.awaitCanceled(id) },
		func(w *watchLog) (*pb.WatchResponse, error) { return w.cancel(id) },
	} {
		if _, err := p.bothAnswer(func(s *side) (proto.Message, error) { return end(s.logs[stream]) }); err != nil {
			return err
		}
	}
	return nil
}

// cancelWatch cancels a watch if there is one: an unknown id is not answered.
func (p *pair) cancelWatch(stream string, id int64) error {
	if p.watches[stream][id] == nil {
		return nil
	}
	settled, err := p.settle(stream)
	if err != nil {
		return err
	}
	_, err = p.bothAnswer(func(s *side) (proto.Message, error) { return s.logs[stream].cancel(id) })
	if err != nil {
		return err
	}
	delete(p.watches[stream], id)
	want, got := p.oracle.logs[stream].take(id), p.subject.logs[stream].take(id)
	if !settled {
		return nil // events may have been on their way
	}
	return compareEvents(stream, id, want, got)
}

func (p *pair) settleAll() error {
	for _, stream := range slices.Sorted(maps.Keys(p.watches)) {
		if _, err := p.settle(stream); err != nil {
			return err
		}
	}
	return nil
}

// settle waits for the events of all watches of a stream and compares them. A stream with a watch that starts in the
// future cannot be asked for progress yet; it is left for later. It writes first: a progress notification that tells the
// new revision was not on its way before.
func (p *pair) settle(stream string) (settled bool, err error) {
	watches := p.watches[stream]
	if len(watches) == 0 {
		return true, nil
	}
	for _, w := range watches {
		if w.start > p.current {
			return false, nil
		}
	}
	if err := p.withoutAlarms(func() error {
		mark := &pb.PutRequest{Key: []byte("settled")}
		resp, err := p.bothAnswer(func(s *side) (proto.Message, error) { return s.administer(mark) })
		p.learn(mark, resp)
		return err
	}); err != nil {
		return false, err
	}
	_, err = p.bothAnswer(func(s *side) (proto.Message, error) { return nil, s.logs[stream].settle(p.current) })
	if err != nil {
		return false, fmt.Errorf("stream %s with watches %v: %w", stream, slices.Sorted(maps.Keys(watches)), err)
	}
	for id := range watches {
		err := compareEvents(stream, id, p.oracle.logs[stream].take(id), p.subject.logs[stream].take(id))
		if err != nil {
			return false, err
		}
	}
	if w, g := p.oracle.rename(p.oracle.logs[stream].unexpectedCancel()), p.subject.rename(p.subject.logs[stream].unexpectedCancel()); w != g {
		return false, &difference{"cancellation on stream " + stream + ": " + w, g}
	}
	return true, nil
}

// withoutAlarms turns alarms off, which refuse writes, and on again.
func (p *pair) withoutAlarms(do func() error) error {
	if !p.alarmed {
		return do()
	}
	set := func(action pb.AlarmRequest_AlarmAction, alarms []*pb.AlarmMember) error {
		for _, a := range alarms {
			req := &pb.AlarmRequest{Action: action, MemberID: a.MemberID, Alarm: a.Alarm}
			if _, err := p.bothAnswer(func(s *side) (proto.Message, error) { return s.administer(req) }); err != nil {
				return err
			}
		}
		return nil
	}
	resp, err := p.bothAnswer(func(s *side) (proto.Message, error) { return s.administer(&pb.AlarmRequest{}) })
	if err != nil {
		return err
	}
	alarms := resp.(*pb.AlarmResponse).Alarms
	if err := set(pb.AlarmRequest_DEACTIVATE, alarms); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	p.alarmed = len(alarms) > 0
	return set(pb.AlarmRequest_ACTIVATE, alarms)
}

func compareEvents(stream string, id int64, want, got []string) error {
	if diff := diffLines(want, got); diff != "" {
		return &difference{
			want: fmt.Sprintf("watch %d on stream %s had %d events", id, stream, len(want)),
			got:  fmt.Sprintf("%d events:\n%s", len(got), strings.TrimRight(diff, "\n")),
		}
	}
	return nil
}
