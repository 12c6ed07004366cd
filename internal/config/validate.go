package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	fallbackExit  = "exit"
	fallbackProxy = "proxy"

	// maxElectionTimeout is etcd's; above it a cluster without a leader looks dead.
	maxElectionTimeout = 50 * time.Second
	// maxSamplingRate is every span: the rate is per million.
	maxSamplingRate = 1000000
)

// Validate reports the first thing that keeps a member from running with this configuration: a
// contradiction, with etcd's text, or a feature that is not built, as [*UnbuiltError].
func (c *Config) Validate() error { return c.validate(true) }

// validate leaves out what a configuration file may contain and a command line may not.
func (c *Config) validate(fromFlags bool) error {
	if fromFlags && c.Discovery.Fallback == fallbackProxy {
		return fmt.Errorf("v2 proxy is deprecated, and --discovery-fallback can't be configured as %q", fallbackProxy)
	}
	for _, check := range []func() error{
		c.Log.validate, c.checkListen, c.checkAdvertise, c.checkBootstrap, c.checkTiming,
		c.checkCompaction, c.checkGates, c.checkTLS, c.checkUnbuilt, c.checkEngine,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) checkListen() error {
	for _, list := range [][]url.URL{c.ListenPeerURLs, c.ListenClientURLs, c.ListenClientHTTPURLs, c.ListenMetricsURLs} {
		if err := checkBind(list); err != nil {
			return err
		}
	}
	for _, a := range c.ListenClientURLs {
		for _, b := range c.ListenClientHTTPURLs {
			if Address(a) == Address(b) {
				return fmt.Errorf("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url %s", b.String())
			}
		}
	}
	return nil
}

// checkBind refuses names, which could resolve to another machine's address; localhost is no risk.
func checkBind(list []url.URL) error {
	for _, u := range list {
		if isSocket(u) {
			continue
		}
		host, _, err := net.SplitHostPort(u.Host)
		if err != nil {
			return err
		}
		if host != "localhost" && net.ParseIP(host) == nil {
			return fmt.Errorf("expected IP in URL for binding (%s)", u.String())
		}
	}
	return nil
}

func isSocket(u url.URL) bool { return u.Scheme == "unix" || u.Scheme == "unixs" }

func (c *Config) checkAdvertise() error {
	if err := checkHosts(c.AdvertisePeerURLs); err != nil {
		return fmt.Errorf(`--initial-advertise-peer-urls %q must be "host:port" (%w)`, joinURLs(c.AdvertisePeerURLs), err)
	}
	if err := checkHosts(c.AdvertiseClientURLs); err != nil {
		return fmt.Errorf(`--advertise-client-urls %q must be in the format "host:port", "unix:/path/to/socket" `+
			`or "unixs:/path/to/socket" (%w)`, joinURLs(c.AdvertiseClientURLs), err)
	}
	return nil
}

func checkHosts(list []url.URL) error {
	for _, u := range list {
		if isSocket(u) {
			continue
		}
		host, _, err := net.SplitHostPort(u.Host)
		if err != nil {
			return err
		}
		if host == "" {
			return fmt.Errorf("unexpected empty host (%s)", u.String())
		}
	}
	return nil
}

func (c *Config) checkBootstrap() error {
	if c.InitialClusterState != ClusterNew && c.InitialClusterState != ClusterExisting {
		return fmt.Errorf("unexpected clusterState %q", c.InitialClusterState)
	}
	ways := 0
	for _, used := range []bool{c.InitialCluster != "", c.Discovery.SRVDomain != "", len(c.Discovery.Endpoints) > 0} {
		if used {
			ways++
		}
	}
	if ways > 1 {
		return errConflictBootstrap
	}
	if (c.Discovery.Token != "") != (len(c.Discovery.Endpoints) > 0) {
		return errors.New("both --discovery-token and --discovery-endpoints must be set")
	}
	for _, endpoint := range c.Discovery.Endpoints {
		if strings.TrimSpace(endpoint) == "" {
			return errors.New("--discovery-endpoints must not contain empty endpoints")
		}
	}
	if len(c.Discovery.Endpoints) > 0 && c.Discovery.RequestTimeout <= 0 {
		return fmt.Errorf("--discovery-request-timeout must be >0 (set to %v)", c.Discovery.RequestTimeout)
	}
	return nil
}

func (c *Config) checkTiming() error {
	beat, election := c.HeartbeatInterval.Milliseconds(), c.ElectionTimeout.Milliseconds()
	switch {
	case beat <= 0:
		return fmt.Errorf("--heartbeat-interval must be >0 (set to %dms)", beat)
	case election <= 0:
		return fmt.Errorf("--election-timeout must be >0 (set to %dms)", election)
	case beat > election/5:
		return fmt.Errorf("--election-timeout[%vms] should be at least as 5 times as --heartbeat-interval[%vms]", election, beat)
	case c.ElectionTimeout > maxElectionTimeout:
		return fmt.Errorf("--election-timeout[%vms] is too long, and should be set less than %vms",
			election, maxElectionTimeout.Milliseconds())
	case len(c.ListenClientURLs) > 0 && len(c.AdvertiseClientURLs) == 0:
		return ErrAdvertiseClientURLs
	}
	return nil
}

func (c *Config) checkCompaction() error {
	switch c.AutoCompactionMode {
	case CompactionPeriodic, CompactionRevision:
	case "":
		return errors.New("undefined auto-compaction-mode")
	default:
		return fmt.Errorf("unknown auto-compaction-mode %q", c.AutoCompactionMode)
	}
	retention, err := c.CompactionRetention()
	if err == nil && retention < 0 {
		// Etcd would compact all the time.
		err = fmt.Errorf("%q is less than nothing", c.AutoCompactionRetention)
	}
	if err != nil {
		return fmt.Errorf("error parsing CompactionRetention: %w", err)
	}
	if c.CompactHashCheckTime <= 0 {
		return fmt.Errorf("--compact-hash-check-time must be >0 (set to %v)", c.CompactHashCheckTime)
	}
	if c.Auth.TokenCleanupInterval <= 0 {
		return fmt.Errorf("--auth-token-cleanup-interval must be >0 (set to %v)", c.Auth.TokenCleanupInterval)
	}
	return nil
}

// CompactionRetention is the retention as etcd keeps it: a duration, or in revision mode as many
// nanoseconds as there are revisions to keep. 0 is no automatic compaction.
func (c *Config) CompactionRetention() (time.Duration, error) {
	n, err := strconv.Atoi(c.AutoCompactionRetention)
	switch {
	case err != nil || n < 0:
		return time.ParseDuration(c.AutoCompactionRetention)
	case c.AutoCompactionMode == CompactionRevision:
		return time.Duration(n), nil
	default:
		return time.Duration(n) * time.Hour, nil
	}
}

func (c *Config) checkGates() error {
	if c.Tracing.Enabled && c.Tracing.SamplingRate < 0 {
		return errors.New("distributed tracing configurition is not valid: (tracing sampling rate must be positive)")
	}
	if c.Tracing.Enabled && c.Tracing.SamplingRate > maxSamplingRate {
		return fmt.Errorf("distributed tracing configurition is not valid: (tracing sampling rate must be less than %d)",
			maxSamplingRate)
	}
	if c.FeatureGates.Enabled(GateLeaseCheckpointPersist) && !c.FeatureGates.Enabled(GateLeaseCheckpoint) {
		return errors.New("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint")
	}
	return nil
}

// warnings are what is allowed and not advisable.
func (c *Config) warnings(notices *Notices) {
	c.warnOfTLS(notices)
	if len(c.ListenClientHTTPURLs) == 0 {
		notices.warn("Running http and grpc server on single port. This is not recommended for production.")
	}
	if c.FeatureGates.Enabled(GateLeaseCheckpoint) && !c.FeatureGates.Enabled(GateLeaseCheckpointPersist) {
		notices.warn("Detected that checkpointing is enabled without persistence. " +
			"Consider enabling feature gate LeaseCheckpointPersist")
	}
	if c.Name == defaultName {
		notices.warn("it isn't recommended to use default name, please set a value for --name. "+
			"Note that etcd might run into issue when multiple members have the same default name",
			zap.String("name", c.Name))
	}
}
