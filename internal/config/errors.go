package config

import (
	"errors"
	"fmt"
)

// ErrHelp and ErrVersion say that the command line asked for text instead of a member. The program
// prints it and exits with status 0.
var (
	ErrHelp    = errors.New("help requested")
	ErrVersion = errors.New("version requested")
)

// ErrAdvertiseClientURLs is the validation error for listening somewhere without telling clients where.
var ErrAdvertiseClientURLs = errors.New(
	"--advertise-client-urls is required when --listen-client-urls is set explicitly")

var (
	errConflictBootstrap = errors.New(`multiple discovery or bootstrap flags are set. ` +
		`Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`)
	errRotationOutput = errors.New(
		"--log-outputs requires a single file path when --log-rotate-config-json is defined")
)

// UsageError is a command line that cannot be read: an unknown flag or a value that does not parse.
// The program prints it as one line on stderr and exits with status 2.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap returns what the flag's parser said.
func (e *UsageError) Unwrap() error { return e.Err }

// FileURLError is a URL in the configuration file that does not parse. The program prints it as one
// line on stderr and exits with status 1.
type FileURLError struct {
	Key string // as in the file
	Err error
}

func (e *FileURLError) Error() string {
	return fmt.Sprintf("unexpected error setting up %s: %v", e.Key, e.Err)
}

// Unwrap returns what is wrong with the URL.
func (e *FileURLError) Unwrap() error { return e.Err }

// ShadowedError is an environment variable whose flag is also on the command line. The program logs
// it at fatal level with the variable as field "environment-variable" and exits with status 1.
type ShadowedError struct {
	Variable string // its name; flags made from several variables report the first
}

// Error is etcd's text, to the doubled parenthesis.
func (e *ShadowedError) Error() string {
	return "conflicting environment variable is shadowed by corresponding command-line flag " +
		"(either unset environment variable or disable flag))"
}

// UnbuiltError is a flag whose feature this version does not have, with a value other than its default.
type UnbuiltError struct {
	Setting string // the flag with its dashes, or "feature gate X"
	Reason  string // what is missing
}

func (e *UnbuiltError) Error() string {
	return fmt.Sprintf("%s is not supported yet by this version of dolmen (%s); remove it or leave it at its default",
		e.Setting, e.Reason)
}
