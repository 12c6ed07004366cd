package robustness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// describe returns the text under which an error is counted, and whether a client may try again after it: something
// was away or late, and nothing is wrong with what was asked.
func describe(err error) (text string, retryable bool) {
	code := status.Code(err)
	var known rpctypes.EtcdError
	switch {
	case errors.As(err, &known):
		code, text = known.Code(), known.Error()
	case errors.Is(err, context.DeadlineExceeded):
		return "the client's deadline", true
	case errors.Is(err, context.Canceled):
		return "the client's end", true
	default:
		text = status.Convert(err).Message()
	}
	if strings.HasPrefix(text, "connection error") || strings.HasPrefix(text, "error reading from server") {
		text = "connection error" // what follows are addresses
	}
	switch code {
	case codes.Unavailable, codes.DeadlineExceeded:
		retryable = true
	case codes.Unknown:
		// etcd names it no better: the leader hands over and takes no proposal meanwhile.
		retryable = text == "raft proposal dropped"
	case codes.ResourceExhausted:
		retryable = text == rpctypes.ErrorDesc(rpctypes.ErrGRPCRequestTooManyRequests)
	}
	return fmt.Sprintf("%v: %s", code, text), retryable
}

// errorCounts says how often which error came.
func (j *journal) errorCounts() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var all []string
	for _, text := range slices.Sorted(maps.Keys(j.mu.failed)) {
		all = append(all, fmt.Sprintf("%d x %s", j.mu.failed[text], text))
	}
	return strings.Join(all, "; ")
}
