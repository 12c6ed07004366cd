package config

func (t *table) security(c *Config) {
	const in = "client-transport-security."
	t.group = "Security"
	s := &c.ClientTLS
	t.text(&s.CertFile, "cert-file", "Certificate of the client listeners.").at(in + "cert-file")
	t.text(&s.KeyFile, "key-file", "Key of that certificate.").at(in + "key-file")
	t.text(&s.ClientCertFile, "client-cert-file",
		"Certificate this member uses as a client of itself; else --cert-file.").at(in + "client-cert-file")
	t.text(&s.ClientKeyFile, "client-key-file", "Key of that certificate.").at(in + "client-key-file")
	t.bool(&s.ClientCertAuth, "client-cert-auth", "Demand a certificate of clients.").at(in + "client-cert-auth")
	t.text(&s.CRLFile, "client-crl-file", "Revoked client certificates.").flagOnly()
	t.value(list{&s.AllowedHostnames}, "client-cert-allowed-hostname", formList,
		"Host names that a client's certificate may carry.").at(in + "allowed-hostname")
	t.text(&s.TrustedCAFile, "trusted-ca-file", "CA that signs clients' certificates.").at(in + "trusted-ca-file")
	t.bool(&s.AutoTLS, "auto-tls", "Serve clients with a generated certificate.").at(in + "auto-tls")
	t.uint(&c.SelfSignedCertValidity, "self-signed-cert-validity", "Years that a generated certificate is valid.")
	t.value(list{&c.CipherSuites}, "cipher-suites", formList, "TLS cipher suites by Go's names; empty leaves the choice to Go.")
	t.text(&c.TLSMinVersion, "tls-min-version", "Lowest TLS version: TLS1.2 or TLS1.3.")
	t.text(&c.TLSMaxVersion, "tls-max-version", "Highest TLS version: TLS1.2, TLS1.3, or empty for Go's.")
	t.value(origins{&c.CORS}, "cors", formText, "Origins allowed to call over HTTP from a browser; empty or * allows all.")
	t.value(hosts{&c.HostWhitelist}, "host-whitelist", formText,
		"Host names allowed in HTTP requests without TLS; empty or * allows all.")
}

// fileOnly are the settings that etcd's configuration file has and its command line lacks.
func fileOnly(c *Config) []*option {
	const in = "client-transport-security."
	t := emptyTable()
	t.value(list{&c.ClientTLS.AllowedCNs}, "client-cert-allowed-cn", formList,
		"Common names that a client's certificate may carry.").at(in + "allowed-cn")
	t.bool(&c.ClientTLS.SkipClientSANVerification, "client-skip-client-san-verification",
		"Do not compare the certificate of a client of the metrics URLs with its address.").at(in + "skip-client-san-verification")
	return t.options
}

func (t *table) peerSecurity(s *TLS) {
	const in = "peer-transport-security."
	t.text(&s.CertFile, "peer-cert-file", "Certificate of the peer listeners.").at(in + "cert-file")
	t.text(&s.KeyFile, "peer-key-file", "Key of that certificate.").at(in + "key-file")
	t.text(&s.ClientCertFile, "peer-client-cert-file",
		"Certificate for calling other members; else --peer-cert-file.").at(in + "client-cert-file")
	t.text(&s.ClientKeyFile, "peer-client-key-file", "Key of that certificate.").at(in + "client-key-file")
	t.bool(&s.ClientCertAuth, "peer-client-cert-auth", "Demand a certificate of other members.").at(in + "client-cert-auth")
	t.text(&s.TrustedCAFile, "peer-trusted-ca-file", "CA that signs members' certificates.").at(in + "trusted-ca-file")
	t.value(list{&s.AllowedCNs}, "peer-cert-allowed-cn", formList,
		"Common names that a member's certificate may carry.").at(in + "allowed-cn")
	t.value(list{&s.AllowedHostnames}, "peer-cert-allowed-hostname", formList,
		"Host names that a member's certificate may carry.").at(in + "allowed-hostname")
	t.bool(&s.AutoTLS, "peer-auto-tls", "Talk to members with a generated certificate.").at(in + "auto-tls")
	t.text(&s.CRLFile, "peer-crl-file", "Revoked member certificates.").flagOnly()
	t.bool(&s.SkipClientSANVerification, "peer-skip-client-san-verification",
		"Do not compare a member's certificate with its address.").at(in + "skip-client-san-verification")
}

func (t *table) monitoring(c *Config) {
	t.group = "Auth"
	t.text(&c.Auth.Token, "auth-token", "Kind of token and its options: simple, or jwt,...")
	t.uint(&c.Auth.BcryptCost, "bcrypt-cost", "Cost factor of password hashes.")
	t.uint(&c.Auth.TokenTTL, "auth-token-ttl", "Seconds that a simple token lives without being used.")
	t.duration(&c.Auth.TokenCleanupInterval, "auth-token-cleanup-interval",
		"How often expired tokens are forgotten and changed key files are noticed.")

	t.group = "Profiling and Monitoring"
	t.bool(&c.EnablePprof, "enable-pprof", "Serve Go profiles under /debug/pprof/ on client URLs.")
	t.text(&c.Metrics, "metrics", "'basic', or 'extensive' to add a latency histogram for each gRPC method.")
	t.urls(&c.ListenMetricsURLs, "listen-metrics-urls", "Where else to serve /metrics and health, without client traffic.")
}

func (t *table) logging(c *Config) {
	t.group = "Logging"
	l := &c.Log
	t.text(&l.Logger, "logger", "Only zap.")
	t.value(set{&l.Outputs}, "log-outputs", formList,
		"Comma list of stderr, stdout, systemd/journal or file paths; default is stderr.")
	t.text(&l.Level, "log-level", "Lowest level written: debug, info, warn, error, panic, fatal.")
	t.text(&l.Format, "log-format",
		"json, console, or auto: console on a terminal and json elsewhere (always json when called etcd).")
	t.bool(&l.Rotate, "enable-log-rotation", "Rotate the one log file of --log-outputs.")
	t.text(&l.RotationJSON, "log-rotation-config-json",
		"When to rotate: maxsize in MB, maxage in days, maxbackups, localtime, compress.")
	t.duration(&c.WarningUnaryRequestDuration, "warning-unary-request-duration", "Log requests slower than this.")
}

func (t *table) tracing(c *Tracing) {
	t.group = "Distributed tracing"
	t.bool(&c.Enabled, "enable-distributed-tracing", "Export OpenTelemetry spans.")
	t.text(&c.Address, "distributed-tracing-address", "host:port of the collector.")
	t.text(&c.ServiceName, "distributed-tracing-service-name", "Service name in spans, the same on all members.")
	t.text(&c.InstanceID, "distributed-tracing-instance-id", "Instance id in spans, different on each member.")
	t.int(&c.SamplingRate, "distributed-tracing-sampling-rate", "Spans to export out of a million.")
}

func (t *table) features(c *Config) {
	t.group = "Features"
	t.duration(&c.CorruptCheckTime, "corrupt-check-time", "Period of comparing data between members; 0 turns it off.")
	t.duration(&c.CompactHashCheckTime, "compact-hash-check-time", "Period of comparing compacted data between members.")
	t.int(&c.CompactionBatchLimit, "compaction-batch-limit",
		"Revisions deleted between two pauses of a compaction; 0 is the default of 1000.")
	t.duration(&c.CompactionSleepInterval, "compaction-sleep-interval", "Length of those pauses; 0 is the default of 10ms.")
	t.duration(&c.WatchProgressNotifyInterval, "watch-progress-notify-interval",
		"Idle time after which a watch is told the revision; 0 is the default of 10m.")
	t.duration(&c.WarningApplyDuration, "warning-apply-duration", "Log entries that take longer than this to apply.")
	t.uint(&c.Backend.DefragThreshold, "bootstrap-defrag-threshold-megabytes",
		"No effect: "+noBbolt+".").noEffect(noBbolt)
	t.int(&c.MaxLearners, "max-learners", "Most learners in the cluster.")
	t.duration(&c.DowngradeCheckTime, "downgrade-check-time", "Period of checking a running downgrade.")
	t.uint64(&c.SnapshotCatchUpEntries, "snapshot-catchup-entries",
		"Entries kept in the log behind a snapshot for slow members.")
}

func (t *table) other(c *Config) {
	t.group = "Unsafe"
	t.bool(&c.ForceNewCluster, "force-new-cluster", "Start as a cluster of one, dropping the other members.")
	t.bool(&c.UnsafeNoFsync, "unsafe-no-fsync", "Do not wait for the disk. A crash loses acknowledged writes.")

	t.group = "Other"
	t.text(&t.configFile, "config-file",
		"YAML or JSON file to read instead of flags and environment; durations are integer nanoseconds.").flagOnly()
	t.bool(&t.version, "version", "Print the versions and exit.").flagOnly()
	for _, name := range []string{
		"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force",
		"max-result-buffer", "max-retry-attempts", "peer-heartbeat-interval", "peer-election-timeout",
		"retry-interval", "snapshot", "v", "vv", "test.coverprofile", "test.outputdir",
	} {
		t.value(ignored{}, name, formText, "").flagOnly().hidden = true
	}
}
