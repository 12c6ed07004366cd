package main

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
)

// openMember starts the member that the configuration describes.
func openMember(context.Context, *config.Config, *zap.Logger) (member, error) {
	return nil, errors.New("this build contains no member")
}
