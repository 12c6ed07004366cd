package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzFile reads arbitrary configuration files. Whatever is accepted must be valid.
func FuzzFile(f *testing.F) {
	f.Add("name: a\nlisten-peer-urls: http://localhost:1\nheartbeat-interval: 10\n")
	f.Add(`{"client-transport-security": {"allowed-cn": ["a"]}, "discovery-config": {"client": null}}`)
	f.Add("cipher-suites: [1]\nsocket-options: x\nfeature-gates: A=b\n")
	path := filepath.Join(f.TempDir(), "conf.yml")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		mustBeValid(t, []string{"--config-file", path}, nil)
	})
}

// FuzzFlags reads arbitrary command lines, one argument or variable a line.
func FuzzFlags(f *testing.F) {
	f.Add("--name=a\n--listen-peer-urls\nhttp://localhost:1")
	f.Add("--initial-cluster=a=b=c\nETCD_FEATURE_GATES==,")
	f.Add("--heartbeat-interval=18446744073709551615\n--election-timeout=9223372036855")
	f.Fuzz(func(t *testing.T, input string) {
		var args, environ []string
		for line := range strings.SplitSeq(input, "\n") {
			switch {
			case strings.Contains(line, "config-file"), strings.Contains(line, "CONFIG_FILE"):
				// would read whatever is there
			case strings.HasPrefix(line, "-"):
				args = append(args, line)
			default:
				environ = append(environ, line)
			}
		}
		mustBeValid(t, args, environ)
	})
}

func mustBeValid(t *testing.T, args, environ []string) {
	cfg, _, err := Parse(args, environ)
	if err != nil {
		return
	}
	if cfg.HeartbeatInterval <= 0 || cfg.ElectionTicks() < 5 || len(cfg.AdvertiseClientURLs) == 0 {
		t.Fatalf("accepted, but heartbeat %v, election %v, advertised %v",
			cfg.HeartbeatInterval, cfg.ElectionTimeout, cfg.AdvertiseClientURLs)
	}
	if members, err := cfg.InitialMembers(); err != nil || len(members) > 1 {
		t.Fatalf("accepted, but initial cluster %q: %v", cfg.InitialCluster, err)
	}
}
