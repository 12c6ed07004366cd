package main

import (
	"context"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/node"
)

// openMember starts the member that the configuration describes.
func openMember(ctx context.Context, cfg *config.Config, lg *zap.Logger) (member, error) {
	m, err := node.Open(ctx, cfg, lg)
	if err != nil {
		return nil, err // not m: a nil *Member in an interface is not nil
	}
	return m, nil
}
