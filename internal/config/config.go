// Package config turns command-line flags, environment variables and a configuration file into one
// validated [Config].
//
// Names, defaults, precedence and error texts are etcd's, because scripts, unit files and operators
// depend on them; what Dolmen adds is marked as its own. The package only computes: it opens no
// listener, writes no log line and never exits. What should be logged is returned as [Notices], to be
// written once a logger exists, and what went wrong is an error whose type says which exit status the
// program owes its caller.
package config

import (
	"math"
	"net/url"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// Config is everything that an operator can decide about one member. The zero value is not usable:
// start from [Default] or [Parse], and call [Config.Validate] after changing a field.
type Config struct {
	// Name is the member's name inside InitialCluster.
	Name string
	// DataDir is the data directory; empty until [Config.Complete] derives it from Name.
	DataDir string
	// WALDir is a dedicated directory for the raft log; empty means inside DataDir.
	WALDir string
	// StorageEngine is where applied state is kept: EnginePebble, EngineMemory or EngineRocksDB. Dolmen's own.
	StorageEngine string

	// ListenPeerURLs and ListenClientURLs are bound at start. If ListenClientHTTPURLs is not empty,
	// HTTP is served there only and ListenClientURLs serve gRPC only.
	ListenPeerURLs       []url.URL
	ListenClientURLs     []url.URL
	ListenClientHTTPURLs []url.URL
	// ListenMetricsURLs serve /metrics and the health endpoints, without gRPC.
	ListenMetricsURLs []url.URL
	// AdvertisePeerURLs and AdvertiseClientURLs are told to other members and to clients.
	AdvertisePeerURLs   []url.URL
	AdvertiseClientURLs []url.URL

	// InitialCluster is the bootstrap membership, "name=url,name=url"; a repeated name accumulates
	// URLs. It counts only while the data directory holds no raft log. See InitialMembers.
	InitialCluster string
	// InitialClusterState is ClusterNew or ClusterExisting.
	InitialClusterState string
	// InitialClusterToken separates clusters that share addresses; member ids derive from it.
	InitialClusterToken string
	// ForceNewCluster drops every other member at start.
	ForceNewCluster bool
	// StrictReconfigCheck refuses membership changes that would cost the quorum.
	StrictReconfigCheck bool
	// MaxLearners is the most learners the membership may hold.
	MaxLearners int

	// HeartbeatInterval is one raft tick, ElectionTimeout the time without a leader's message after
	// which a follower campaigns. Both are whole milliseconds.
	HeartbeatInterval time.Duration
	ElectionTimeout   time.Duration
	// InitialElectionTickAdvance lets the first election after a start begin early.
	InitialElectionTickAdvance bool
	// PreVote asks for votes before raising the term.
	PreVote bool
	// RaftReadTimeout and RaftWriteTimeout bound one read or write on a peer connection; at least 5 s.
	RaftReadTimeout  time.Duration
	RaftWriteTimeout time.Duration

	// SnapshotCount is the number of applied entries after which the engine is flushed and a
	// snapshot record is written; SnapshotCatchUpEntries stay in the log behind it.
	SnapshotCount          uint64
	SnapshotCatchUpEntries uint64
	// MaxSnapshots and MaxWALs are how many files of each kind are kept; 0 keeps all.
	MaxSnapshots uint
	MaxWALs      uint
	// UnsafeNoFsync loses acknowledged writes in a crash; for tests.
	UnsafeNoFsync bool
	// MemoryMlock keeps the process' pages in memory.
	MemoryMlock bool
	// Backend tunes etcd's bbolt file, which Dolmen does not have: accepted and without effect.
	Backend Backend

	// QuotaBackendBytes bounds the stored bytes: 0 is the default (2 GiB), below 0 no limit.
	QuotaBackendBytes int64
	// MaxTxnOps is the most operations in one transaction, MaxRequestBytes the most bytes in a request.
	MaxTxnOps       uint
	MaxRequestBytes uint
	// GRPC bounds and keeps alive client connections.
	GRPC GRPC
	// SocketReusePort and SocketReuseAddress set SO_REUSEPORT and SO_REUSEADDR on listeners.
	SocketReusePort    bool
	SocketReuseAddress bool

	// AutoCompactionMode is "periodic" or "revision", AutoCompactionRetention its argument:
	// a duration (or hours without a unit), or a number of revisions. "0" turns it off.
	AutoCompactionMode      string
	AutoCompactionRetention string
	// CompactionBatchLimit is the most revisions deleted between two pauses of
	// CompactionSleepInterval; 0 means the store's default for either.
	CompactionBatchLimit    int
	CompactionSleepInterval time.Duration
	// CorruptCheckTime and CompactHashCheckTime are the periods of the two comparisons between
	// members; 0 turns the first off, the second must be above 0.
	CorruptCheckTime     time.Duration
	CompactHashCheckTime time.Duration
	// WatchProgressNotifyInterval is the idle time after which a watch that asked for progress is
	// told the revision; 0 means the store's default (10 minutes).
	WatchProgressNotifyInterval time.Duration
	// DowngradeCheckTime is the period of the downgrade status check.
	DowngradeCheckTime time.Duration

	// FeatureGates are etcd's named switches.
	FeatureGates FeatureGates
	// ClientTLS and PeerTLS are the certificates of the two kinds of listener.
	ClientTLS TLS
	PeerTLS   TLS
	// SelfSignedCertValidity is in years.
	SelfSignedCertValidity uint
	// CipherSuites are Go's names; TLSMinVersion and TLSMaxVersion are "TLS1.2", "TLS1.3" or "" (Go's).
	CipherSuites  []string
	TLSMinVersion string
	TLSMaxVersion string
	// CORS and HostWhitelist are origins and Host headers allowed over HTTP; "*" allows all.
	CORS          []string
	HostWhitelist []string
	// Auth configures tokens and passwords.
	Auth Auth
	// Discovery finds the other members through a running cluster or DNS.
	Discovery Discovery

	// EnableGRPCGateway serves the JSON gateway under /v3.
	EnableGRPCGateway bool
	// EnablePprof serves /debug/pprof on client URLs.
	EnablePprof bool
	// Metrics is "basic", or "extensive" to add latency histograms for every gRPC method.
	Metrics string
	// Log says what is logged, in which form and where to.
	Log Log
	// WarningApplyDuration and WarningUnaryRequestDuration are the durations above which an applied
	// entry and a request are logged.
	WarningApplyDuration        time.Duration
	WarningUnaryRequestDuration time.Duration
	// Tracing exports OpenTelemetry spans.
	Tracing Tracing
}

// GRPC bounds and keeps alive client connections.
type GRPC struct {
	// Transport carries the requests of clients: TransportDolmen or TransportGRPCGo. Dolmen's own setting.
	Transport string
	// MaxConcurrentStreams is the most open streams of one connection.
	MaxConcurrentStreams uint32
	// KeepAliveMinTime is the shortest interval between a client's pings that is tolerated.
	KeepAliveMinTime time.Duration
	// KeepAliveInterval is the idle time after which the server pings, KeepAliveTimeout how long it
	// then waits before it closes the connection; 0 turns pings off.
	KeepAliveInterval time.Duration
	KeepAliveTimeout  time.Duration
}

// TLS names the certificate files of one kind of listener and says whom it trusts.
type TLS struct {
	CertFile, KeyFile             string
	ClientCertFile, ClientKeyFile string
	TrustedCAFile, CRLFile        string
	ClientCertAuth, AutoTLS       bool
	AllowedCNs, AllowedHostnames  []string
	SkipClientSANVerification     bool
}

// Auth configures tokens and passwords.
type Auth struct {
	// Token is "simple" or "jwt,key=value...".
	Token string
	// BcryptCost is the cost factor of password hashes.
	BcryptCost uint
	// TokenTTL is the life of a simple token in seconds.
	TokenTTL uint
	// TokenCleanupInterval is how often expired tokens are forgotten and changed key files are looked for.
	// Dolmen's own.
	TokenCleanupInterval time.Duration
}

// Discovery finds the other members at bootstrap.
type Discovery struct {
	Token                       string
	Endpoints                   []string
	DialTimeout, RequestTimeout time.Duration
	KeepAliveTime               time.Duration
	KeepAliveTimeout            time.Duration
	InsecureTransport           bool
	InsecureSkipVerify          bool
	CertFile, KeyFile, CAFile   string
	User, Password              string
	Fallback                    string
	SRVDomain, SRVServiceName   string
}

// Backend tunes etcd's bbolt file. Accepted for compatibility; nothing reads it.
type Backend struct {
	FreelistType    string
	BatchInterval   time.Duration
	BatchLimit      int
	DefragThreshold uint
}

// Log says what is logged, in which form and where to.
type Log struct {
	// Logger is always "zap".
	Logger string
	// Level is the lowest level written: debug, info, warn, error, panic or fatal.
	Level string
	// Format is FormatAuto, FormatJSON or FormatConsole.
	Format string
	// Outputs are "default" (stderr), "stderr", "stdout", "systemd/journal" or file paths.
	Outputs []string
	// Rotate rotates the one file of Outputs as RotationJSON says (lumberjack's JSON fields:
	// maxsize in MB, maxage in days, maxbackups, localtime, compress).
	Rotate       bool
	RotationJSON string
}

// Tracing exports OpenTelemetry spans.
type Tracing struct {
	Enabled                          bool
	Address, ServiceName, InstanceID string
	// SamplingRate is in spans per million.
	SamplingRate int
}

// Values of fields that are one of a few words.
const (
	EnginePebble  = "pebble"
	EngineMemory  = "memory"
	EngineRocksDB = "rocksdb" // if the program was built with it

	TransportDolmen = "dolmen"
	TransportGRPCGo = "grpc-go"

	ClusterNew      = "new"
	ClusterExisting = "existing"

	// FormatAuto is Dolmen's own: readable lines on a terminal, JSON elsewhere.
	FormatAuto    = "auto"
	FormatJSON    = "json"
	FormatConsole = "console"

	CompactionPeriodic = "periodic"
	CompactionRevision = "revision"

	// MetricsExtensive is the value of Metrics that adds histograms.
	MetricsExtensive = "extensive"
)

const (
	defaultName      = "default"
	defaultPeerURL   = "http://localhost:2380"
	defaultClientURL = "http://localhost:2379"
	// minRaftTimeout keeps a peer connection from being cut while a large snapshot part is on its way.
	minRaftTimeout              = 5 * time.Second
	defaultUnaryRequestDuration = 300 * time.Millisecond
	defaultRotationJSON         = `{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}`
)

// Default returns the configuration of a member that was given no flag. Its defaults are etcd 3.7's.
func Default() *Config {
	cfg := &Config{
		Name:                       defaultName,
		StorageEngine:              EnginePebble,
		ListenPeerURLs:             localURL("2380"),
		ListenClientURLs:           localURL("2379"),
		AdvertisePeerURLs:          localURL("2380"),
		AdvertiseClientURLs:        localURL("2379"),
		InitialCluster:             defaultName + "=" + defaultPeerURL,
		InitialClusterState:        ClusterNew,
		InitialClusterToken:        "etcd-cluster",
		StrictReconfigCheck:        true,
		MaxLearners:                1,
		HeartbeatInterval:          100 * time.Millisecond,
		ElectionTimeout:            time.Second,
		InitialElectionTickAdvance: true,
		PreVote:                    true,
		RaftReadTimeout:            minRaftTimeout,
		RaftWriteTimeout:           minRaftTimeout,
		SnapshotCount:              10000,
		SnapshotCatchUpEntries:     5000,
		MaxSnapshots:               5,
		MaxWALs:                    5,
		MaxTxnOps:                  128,
		MaxRequestBytes:            1.5 * 1024 * 1024,
		GRPC: GRPC{
			Transport:            TransportGRPCGo,
			MaxConcurrentStreams: math.MaxUint32,
			KeepAliveMinTime:     5 * time.Second,
			KeepAliveInterval:    2 * time.Hour,
			KeepAliveTimeout:     20 * time.Second,
		},
		AutoCompactionMode:          CompactionPeriodic,
		AutoCompactionRetention:     "0",
		CompactHashCheckTime:        time.Minute,
		DowngradeCheckTime:          5 * time.Second,
		SelfSignedCertValidity:      1,
		TLSMinVersion:               "TLS1.2",
		CORS:                        []string{"*"},
		HostWhitelist:               []string{"*"},
		Auth:                        Auth{Token: "simple", BcryptCost: 10, TokenTTL: 300, TokenCleanupInterval: time.Second},
		Discovery:                   defaultDiscovery(),
		EnableGRPCGateway:           true,
		Metrics:                     "basic",
		WarningApplyDuration:        100 * time.Millisecond,
		WarningUnaryRequestDuration: defaultUnaryRequestDuration,
		Tracing:                     Tracing{Address: "localhost:4317", ServiceName: "etcd"},
	}
	cfg.Log = Log{
		Logger: "zap", Level: "info", Format: FormatAuto,
		Outputs: []string{logDefault}, RotationJSON: defaultRotationJSON,
	}
	return cfg
}

func defaultDiscovery() Discovery {
	return Discovery{
		DialTimeout:       2 * time.Second,
		RequestTimeout:    5 * time.Second,
		KeepAliveTime:     2 * time.Second,
		KeepAliveTimeout:  6 * time.Second,
		InsecureTransport: true,
		Fallback:          fallbackExit,
	}
}

func localURL(port string) []url.URL {
	return []url.URL{{Scheme: "http", Host: "localhost:" + port}}
}

// InitialMembers is InitialCluster as a map from name to peer URLs.
func (c *Config) InitialMembers() (types.URLsMap, error) {
	return types.NewURLsMap(c.InitialCluster)
}

// ElectionTicks is the election timeout in heartbeat intervals, at least 5 in a valid configuration.
func (c *Config) ElectionTicks() int {
	return int(c.ElectionTimeout / c.HeartbeatInterval)
}
