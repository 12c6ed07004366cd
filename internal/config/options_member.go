package config

const noBbolt = "it tunes etcd's bbolt file, and this store has none"

func (t *table) member(c *Config) {
	t.group = "Member"
	t.text(&c.Name, "name", "Name of this member, unique in the cluster.")
	t.text(&c.DataDir, "data-dir", "Directory for everything this member stores.").show("${name}.etcd")
	t.text(&c.WALDir, "wal-dir", "Separate directory for the raft log, best on its own disk.")
	t.value(oneOf{p: &c.StorageEngine, choices: engines()}, "storage-engine", formText,
		"Where applied data is kept: 'pebble' or 'rocksdb' on disk, 'memory' in memory with checkpoint files. "+
			"'rocksdb' is part of programs that were built with it. Dolmen only.")
	t.urls(&c.ListenPeerURLs, "listen-peer-urls", "Where to listen for other members.")
	t.urls(&c.ListenClientURLs, "listen-client-urls",
		"Where to listen for clients: gRPC, and HTTP unless --listen-client-http-urls is set.")
	t.urls(&c.ListenClientHTTPURLs, "listen-client-http-urls",
		"Where to listen for HTTP clients only; takes HTTP away from --listen-client-urls.")
	t.uint64(&c.SnapshotCount, "snapshot-count", "Applied entries after which the store is flushed and the log cut.")
	t.value(millis{&c.HeartbeatInterval}, "heartbeat-interval", formNumber,
		"Milliseconds between the leader's heartbeats.")
	t.value(millis{&c.ElectionTimeout}, "election-timeout", formNumber,
		"Milliseconds without a leader after which a member campaigns; at least 5 heartbeats.")
	t.bool(&c.InitialElectionTickAdvance, "initial-election-tick-advance",
		"Shorten the wait before the first election after a start.")
	t.uint(&c.MaxSnapshots, "max-snapshots", "Snapshot files to keep, 0 for all. Deprecated.")
	t.uint(&c.MaxWALs, "max-wals", "Raft log files to keep, 0 for all.")
	t.bool(&c.MemoryMlock, "memory-mlock", "Keep this process in RAM.")
	t.text(&c.Backend.FreelistType, "backend-bbolt-freelist-type", "No effect: "+noBbolt+".").noEffect(noBbolt)
	t.duration(&c.Backend.BatchInterval, "backend-batch-interval", "No effect: "+noBbolt+".").noEffect(noBbolt)
	t.int(&c.Backend.BatchLimit, "backend-batch-limit", "No effect: "+noBbolt+".").noEffect(noBbolt)
	t.bool(&c.EnableGRPCGateway, "enable-grpc-gateway", "Serve the JSON gateway under /v3.")
	t.duration(&c.RaftReadTimeout, "raft-read-timeout",
		"Longest read on a connection between members; raised to 5s if shorter.").flagOnly()
	t.duration(&c.RaftWriteTimeout, "raft-write-timeout",
		"Longest write on a connection between members; raised to 5s if shorter.").flagOnly()
	t.value(&c.FeatureGates, "feature-gates", formText,
		"Named switches, 'A=true,B=false'; see the list at the end.")
}

func (t *table) limits(c *Config) {
	t.int64(&c.QuotaBackendBytes, "quota-backend-bytes",
		"Stored bytes above which writes are refused; 0 is the default of 2 GiB, below 0 no limit.")
	t.uint(&c.MaxTxnOps, "max-txn-ops", "Most operations in one transaction.")
	t.uint(&c.MaxRequestBytes, "max-request-bytes", "Largest request in bytes.")
	t.value(oneOf{p: &c.GRPC.Transport, choices: []string{TransportDolmen, TransportGRPCGo}}, "grpc-transport", formText,
		"What carries the requests of clients: 'grpc-go', or 'dolmen', which is new and faster. Dolmen only.")
	t.value(uint32Value{&c.GRPC.MaxConcurrentStreams}, "max-concurrent-streams", formNumber,
		"Most streams that one connection may hold open.")
	t.duration(&c.GRPC.KeepAliveMinTime, "grpc-keepalive-min-time",
		"Shortest interval at which a client may ping.")
	t.duration(&c.GRPC.KeepAliveInterval, "grpc-keepalive-interval",
		"Idle time after which the server pings a connection; 0 turns it off.")
	t.duration(&c.GRPC.KeepAliveTimeout, "grpc-keepalive-timeout",
		"Time to wait for the answer to a ping before closing the connection.")
	t.bool(&c.SocketReusePort, "socket-reuse-port", "Set SO_REUSEPORT on listeners.").at("socket-options.reuse-port")
	t.bool(&c.SocketReuseAddress, "socket-reuse-address",
		"Set SO_REUSEADDR on listeners.").at("socket-options.reuse-address")
}

func (t *table) clustering(c *Config) {
	t.group = "Clustering"
	t.urls(&c.AdvertisePeerURLs, "initial-advertise-peer-urls", "This member's peer URLs, as other members reach them.")
	t.text(&c.InitialCluster, "initial-cluster", "Members at bootstrap, 'name=peer-url,name=peer-url'.")
	t.value(oneOf{p: &c.InitialClusterState, choices: []string{ClusterNew, ClusterExisting}, terse: true},
		"initial-cluster-state", formText,
		"'new' to bootstrap a cluster, 'existing' to join one; ignored once the member has data.")
	t.text(&c.InitialClusterToken, "initial-cluster-token", "Keeps clusters apart that are bootstrapped on the same addresses.")
	t.urls(&c.AdvertiseClientURLs, "advertise-client-urls",
		"This member's client URLs, as clients reach them. Required with --listen-client-urls.")
	t.bool(&c.StrictReconfigCheck, "strict-reconfig-check", "Refuse membership changes that would lose the quorum.")
	t.bool(&c.PreVote, "pre-vote", "Ask for votes before raising the term, so that a returning member does not disturb.")
	t.text(&c.AutoCompactionRetention, "auto-compaction-retention",
		"History to keep: '5m', hours without a unit, or a number of revisions; 0 keeps all.")
	t.text(&c.AutoCompactionMode, "auto-compaction-mode", "How to read --auto-compaction-retention: periodic or revision.")
	t.value(v2Stages{}, "v2-deprecation", formText, "No effect. Deprecated.").show("write-only")
}

func (t *table) discovery(d *Discovery) {
	const in = "discovery-config."
	t.text(&d.Token, "discovery-token", "Name of the cluster to be formed in the discovery service.").at(in + "token")
	t.value(set{&d.Endpoints}, "discovery-endpoints", formList,
		"gRPC endpoints of the discovery service.").at(in + "client.endpoints")
	t.duration(&d.DialTimeout, "discovery-dial-timeout", "Longest connect to discovery.").at(in + "client.dial-timeout")
	t.duration(&d.RequestTimeout, "discovery-request-timeout",
		"Longest request to discovery.").at(in + "client.request-timeout")
	t.duration(&d.KeepAliveTime, "discovery-keepalive-time",
		"Idle time before pinging discovery.").at(in + "client.keepalive-time")
	t.duration(&d.KeepAliveTimeout, "discovery-keepalive-timeout",
		"Wait for the answer to that ping.").at(in + "client.keepalive-timeout")
	t.bool(&d.InsecureTransport, "discovery-insecure-transport",
		"Talk to discovery without TLS.").at(in + "client.secure.insecure-transport")
	t.bool(&d.InsecureSkipVerify, "discovery-insecure-skip-tls-verify",
		"Do not verify discovery's certificate; for tests.").at(in + "client.secure.insecure-skip-tls-verify")
	t.text(&d.CertFile, "discovery-cert", "Client certificate for discovery.").at(in + "client.secure.cert")
	t.text(&d.KeyFile, "discovery-key", "Key of that certificate.").at(in + "client.secure.key")
	t.text(&d.CAFile, "discovery-cacert", "CA that signed discovery's certificate.").at(in + "client.secure.cacert")
	t.text(&d.User, "discovery-user", "User, or user:password, at discovery.").at(in + "client.auth.username")
	t.text(&d.Password, "discovery-password", "Password at discovery.").at(in + "client.auth.password")
	t.value(oneOf{p: &d.Fallback, choices: []string{fallbackExit, fallbackProxy}, terse: true},
		"discovery-fallback", formText, "What to do when discovery fails; only 'exit' is left.").flagOnly()
	t.text(&d.SRVDomain, "discovery-srv", "DNS domain whose SRV records name the members.")
	t.text(&d.SRVServiceName, "discovery-srv-name", "Suffix of the SRV service name.")
}
