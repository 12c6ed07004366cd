// Package embed runs a member inside another Go program: the same member that the command dolmen runs,
// with its own listeners, so that clients of any kind can use it.
//
//	cfg := embed.NewConfig()
//	cfg.DataDir = "/var/lib/app/metadata"
//	member, err := embed.Start(ctx, cfg)
//	if err != nil {
//		return err
//	}
//	defer member.Close(ctx)
//	client, err := member.Client() // an ordinary clientv3.Client
//	...
//	_, err = client.Put(ctx, "key", "value")
//
// A program may run any number of members, each with a data directory of its own. Nothing is global:
// no flag, environment variable or signal is read, and the process is never ended.
package embed

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/node"
)

// The values of Config.StorageEngine.
const (
	EnginePebble  = config.EnginePebble
	EngineMemory  = config.EngineMemory
	EngineRocksDB = config.EngineRocksDB
)

// Config is what a member is started with. Start from NewConfig.
type Config struct {
	// Name is the member's name.
	Name string
	// DataDir is where the member keeps everything. It is made if it is missing; a member that is started
	// on it again goes on where the one before it ended. It must be given.
	DataDir string
	// StorageEngine is EnginePebble, which keeps data on disk, or EngineMemory, which keeps all of it in
	// memory and writes whole copies to disk, or EngineRocksDB, which keeps data on disk and needs RocksDB's
	// library and the build tag rocksdb. None loses an acknowledged write. A data directory stays with the
	// engine it was made with.
	StorageEngine string

	// ListenClientURLs and ListenPeerURLs are bound, as in "http://127.0.0.1:2379". With port 0 the system
	// chooses one, which the advertised URL follows; Member.Endpoints tells it.
	ListenClientURLs, ListenPeerURLs []string
	// AdvertiseClientURLs and AdvertisePeerURLs are told to others; without them, those that are listened
	// on.
	AdvertiseClientURLs, AdvertisePeerURLs []string

	// Flags are any further settings, as on the command line of dolmen: "--snapshot-count=1000". They win
	// over the fields above.
	Flags []string

	// Logger gets what the member has to say. Nil means nobody does: what stops a member is also the
	// error of Start or of Member.Err.
	Logger *zap.Logger
}

// NewConfig returns the configuration of a member named "default" with the pebble engine, that listens
// on ports of 127.0.0.1 which the system chooses. DataDir is left to the caller.
func NewConfig() *Config {
	return &Config{
		Name:             "default",
		StorageEngine:    EnginePebble,
		ListenClientURLs: []string{"http://127.0.0.1:0"},
		ListenPeerURLs:   []string{"http://127.0.0.1:0"},
	}
}

// ErrNoDataDir says that Config.DataDir is empty.
var ErrNoDataDir = errors.New("embed: no data directory: set Config.DataDir")

// Member is a running member.
type Member struct{ node *node.Member }

// Start starts a member and returns when it serves clients. ctx bounds the start and nothing after it; a
// start that waits for another process to leave the data directory ends with it too. After an error
// nothing is left running. The errors are those of the command line, the context's, or say what is wrong
// with the data directory.
func Start(ctx context.Context, cfg *Config) (*Member, error) {
	if cfg.DataDir == "" {
		return nil, ErrNoDataDir
	}
	lg := cfg.Logger
	if lg == nil {
		lg = zap.NewNop()
	}
	settings, notices, err := config.Parse(cfg.args(), nil)
	notices.Log(lg)
	if err != nil {
		return nil, fmt.Errorf("embed: configuration: %w", err)
	}
	settings.Complete(noHost).Log(lg)
	m, err := node.Open(ctx, settings, lg)
	if err != nil {
		return nil, fmt.Errorf("embed: start: %w", err)
	}
	select {
	case <-m.Ready():
		return &Member{node: m}, nil
	case <-m.Done():
		return nil, fmt.Errorf("embed: start: %w", m.Err())
	case <-ctx.Done():
		// The member has not begun to serve, so nothing is cut off; it must be gone when this returns.
		return nil, fmt.Errorf("embed: start: %w", errors.Join(ctx.Err(), m.Stop(context.WithoutCancel(ctx))))
	}
}

// noHost leaves the advertised URLs as they are: they are always given.
func noHost() (string, error) { return "", nil }

// Endpoints returns the URLs at which clients on this machine reach the member.
func (m *Member) Endpoints() []string {
	var all []string
	for _, u := range m.node.ClientURLs() {
		all = append(all, endpoint(u))
	}
	return all
}

// Client returns a new client of this member, which the caller closes. It connects in the background. Over TLS
// it accepts this member's certificate and no other, and shows the one of --client-cert-file, or else of
// --cert-file.
func (m *Member) Client() (*clientv3.Client, error) {
	cfg := clientv3.Config{Logger: zap.NewNop()}
	// A client speaks TLS with all of its endpoints or with none.
	cfg.Endpoints = plain(m.Endpoints())
	if len(cfg.Endpoints) == 0 {
		cfg.Endpoints, cfg.TLS = m.Endpoints(), m.node.LoopbackTLS()
	}
	c, err := clientv3.New(cfg)
	if err != nil {
		return nil, fmt.Errorf("embed: make a client: %w", err)
	}
	return c, nil
}

// Done is closed when the member has stopped, whatever the reason.
func (m *Member) Done() <-chan struct{} { return m.node.Done() }

// Err returns why the member stopped, nil if Close made it. It must be called after Done.
func (m *Member) Err() error { return m.node.Err() }

// Close stops the member: it refuses new requests, lets those under way finish, and makes everything
// durable. It returns when the member has stopped, with the error that stopped it if it was not Close,
// or with ctx's error when that ends first; the member goes on stopping then. It may be called again.
func (m *Member) Close(ctx context.Context) error {
	if err := m.node.Stop(ctx); err != nil {
		return fmt.Errorf("embed: close: %w", err)
	}
	return nil
}
