package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestParse runs command lines. Every line of the input is an argument, a variable if it begins with
// "env ", or a line of the configuration file if it begins with "file ". The output is what differs
// from the defaults, then the notices, then the error and what the program owes for it.
func TestParse(t *testing.T) {
	datadriven.Walk(t, filepath.Join("testdata", "parse"), func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			require.Equal(t, "parse", d.Cmd)
			return parseCase(t, d.Input)
		})
	})
}

func parseCase(t *testing.T, input string) string {
	var args, environ, file []string
	for line := range strings.SplitSeq(input, "\n") {
		if rest, ok := strings.CutPrefix(line, "env "); ok {
			environ = append(environ, rest)
		} else if rest, ok := strings.CutPrefix(line, "file "); ok {
			file = append(file, rest)
		} else if line != "" {
			args = append(args, line)
		}
	}
	path := filepath.Join(t.TempDir(), "conf.yml")
	if file != nil {
		require.NoError(t, os.WriteFile(path, []byte(strings.Join(file, "\n")), 0o600))
		args = append(args, "--config-file", path)
	}
	cfg, notices, err := Parse(args, environ)
	var b strings.Builder
	if err == nil {
		b.WriteString(differences(cfg))
	}
	for _, n := range notices {
		fmt.Fprintf(&b, "%s: %s%s\n", n.Level, n.Message, fieldsText(n.Fields))
	}
	if err != nil {
		fmt.Fprintf(&b, "%s: %v\n", errorKind(err), err)
	}
	return strings.ReplaceAll(b.String(), path, "conf.yml")
}

func differences(cfg *Config) string {
	var b strings.Builder
	defaults := &table{options: append(newTable(Default()).options, fileOnly(Default())...)}
	for _, o := range append(newTable(cfg).options, fileOnly(cfg)...) {
		if was := defaults.find(o.Name).Value.String(); o.Value.String() != was {
			fmt.Fprintf(&b, "%s = %s\n", o.Name, o.Value)
		}
	}
	return b.String()
}

func fieldsText(fields []zap.Field) string {
	m := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(m)
	}
	if len(m.Fields) == 0 {
		return ""
	}
	return fmt.Sprintf(" %v", m.Fields)
}

func errorKind(err error) string {
	var (
		usage    *UsageError
		fileURL  *FileURLError
		shadowed *ShadowedError
		missing  *UnbuiltError
	)
	switch {
	case errors.Is(err, ErrHelp), errors.Is(err, ErrVersion):
		return "exit 0"
	case errors.As(err, &usage):
		return "exit 2"
	case errors.As(err, &fileURL):
		return "exit 1, plain"
	case errors.As(err, &shadowed):
		return "exit 1, fatal " + shadowed.Variable
	case errors.As(err, &missing):
		return "exit 1, unbuilt"
	default:
		return "exit 1"
	}
}

func TestDefaultIsValid(t *testing.T) {
	cfg := Default()
	require.NoError(t, cfg.Validate())
	require.Equal(t, 10, cfg.ElectionTicks())
	members, err := cfg.InitialMembers()
	require.NoError(t, err)
	require.Equal(t, "default=http://localhost:2380", members.String())
}

// TestUnbuiltListNamesFlags keeps a typing error from switching a refusal off.
func TestUnbuiltListNamesFlags(t *testing.T) {
	table := newTable(Default())
	for name := range unbuilt() {
		require.NotNil(t, table.find(name), "--%s is not a flag", name)
	}
}

// TestEveryFlagReachesConfig sets each flag to another value and expects a different Config.
func TestEveryFlagReachesConfig(t *testing.T) {
	words := map[string]string{
		"listen-peer-urls": "http://127.0.0.1:7", "listen-client-urls": "http://127.0.0.1:7",
		"listen-client-http-urls": "http://127.0.0.1:7", "listen-metrics-urls": "http://127.0.0.1:7",
		"initial-advertise-peer-urls": "http://127.0.0.1:7", "advertise-client-urls": "http://127.0.0.1:7",
		"cors": "http://127.0.0.1:7", "storage-engine": EngineMemory, "grpc-transport": TransportDolmen, "initial-cluster-state": ClusterExisting,
		"discovery-fallback": fallbackProxy, "feature-gates": "AllBeta=false", "v2-deprecation": "",
	}
	for _, o := range newTable(Default()).options {
		if o.hidden || o.Name == "v2-deprecation" || o.group == "Other" {
			continue
		}
		value, ok := words[o.Name]
		if !ok {
			value = map[form]string{formText: "other", formNumber: "7", formDuration: "7h0m0s", formList: "a,b"}[o.form]
		}
		if o.form == formBool {
			value = fmt.Sprint(o.DefValue != "true")
		}
		cfg := Default()
		require.NoError(t, newTable(cfg).flags.Set(o.Name, value), o.Name)
		require.Equal(t, o.Name+" = "+value+"\n", differences(cfg))
	}
}

func TestComplete(t *testing.T) {
	address := func() (string, error) { return "10.1.2.3", nil }
	none := func() (string, error) { return "", errors.New("no route") }
	everywhere := func(port string) []url.URL { return []url.URL{{Scheme: "http", Host: "0.0.0.0:" + port}} }

	cfg := Default()
	cfg.Name = "a"
	cfg.ListenPeerURLs, cfg.ListenClientURLs = everywhere("7380"), everywhere("7379")
	notices := cfg.Complete(address)
	require.Equal(t, "a=http://10.1.2.3:7380", cfg.InitialCluster)
	require.Equal(t, "http://10.1.2.3:7379", joinURLs(cfg.AdvertiseClientURLs))
	require.Equal(t, "a.etcd", cfg.DataDir)
	require.Len(t, notices, 2)
	require.Equal(t, "detected default host for advertise", notices[0].Message)

	cfg = Default()
	cfg.DataDir = "d"
	notices = cfg.Complete(none)
	require.Equal(t, Default().InitialCluster, cfg.InitialCluster)
	require.Equal(t, "http://localhost:2380", joinURLs(cfg.AdvertisePeerURLs))
	require.Len(t, notices, 1)
	require.Equal(t, "failed to detect default host", notices[0].Message)

	cfg = Default()
	cfg.AdvertisePeerURLs = append(cfg.AdvertisePeerURLs, cfg.AdvertisePeerURLs[0])
	cfg.Name = ""
	require.Equal(t, "default=http://localhost:2380,default=http://localhost:2380", cfg.InitialClusterFromName())
}

func TestHelpNamesEveryFlag(t *testing.T) {
	help := Help()
	for _, o := range newTable(Default()).options {
		require.Equal(t, !o.hidden, strings.Contains(help, "  --"+o.Name+" '"), o.Name)
	}
	for _, gate := range KnownGates() {
		require.Contains(t, help, gate.Name+"=true|false")
	}
	require.Contains(t, help, "--memory-mlock 'false'\n    Keep this process in RAM.\n    Not supported yet: locking memory is not built.")
	require.Contains(t, Usage("etcd"), "\n  etcd [flags]\n")
}

func TestNoticesLog(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	var notices Notices
	notices.info("one", zap.Int("n", 1))
	notices.warn("two")
	notices.Log(zap.New(core))
	require.Equal(t, []string{"one", "two"}, []string{logs.All()[0].Message, logs.All()[1].Message})
	require.Equal(t, zap.WarnLevel, logs.All()[1].Level)
	require.Equal(t, map[string]any{"n": int64(1)}, logs.All()[0].ContextMap())
}

func TestGates(t *testing.T) {
	var g FeatureGates
	require.True(t, g.Enabled("FastLeaseKeepAlive"))
	require.False(t, g.Enabled("nonsense"))
	require.NoError(t, g.Set("AllAlpha=true, PriorityRequest = false,,"))
	require.True(t, g.Enabled(GateLeaseCheckpoint))
	require.False(t, g.Enabled("PriorityRequest"))
	require.NoError(t, g.Set("PriorityRequest=true,AllBeta=false"))
	require.True(t, g.Enabled("PriorityRequest"))
	require.False(t, g.Enabled("FastLeaseKeepAlive"))
	require.Equal(t, "AllAlpha=true,AllBeta=false,PriorityRequest=true", g.String())
	require.EqualError(t, g.Set("X=true"), "unrecognized feature gate: X")
	require.EqualError(t, g.Set("X"), "missing bool value for X")
	require.ErrorContains(t, g.Set("PriorityRequest=maybe"), "invalid value of PriorityRequest=maybe, err: ")
}

func TestValidateProgrammaticValues(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"state", func(c *Config) { c.InitialClusterState = "x" }, `unexpected clusterState "x"`},
		{"fallback", func(c *Config) { c.Discovery.Fallback = "proxy" },
			`v2 proxy is deprecated, and --discovery-fallback can't be configured as "proxy"`},
		{"bind without port", func(c *Config) { c.ListenPeerURLs[0].Host = "x" }, "address x: missing port in address"},
		{"advertise without port", func(c *Config) { c.AdvertisePeerURLs[0].Host = "x" },
			`--initial-advertise-peer-urls "http://x" must be "host:port" (address x: missing port in address)`},
		{"negative heartbeat", func(c *Config) { c.HeartbeatInterval = -time.Second }, "--heartbeat-interval must be >0 (set to -1000ms)"},
		{"sampling", func(c *Config) { c.Tracing.Enabled, c.Tracing.SamplingRate = true, -1 },
			"distributed tracing configurition is not valid: (tracing sampling rate must be positive)"},
		{"sampling above", func(c *Config) { c.Tracing.Enabled, c.Tracing.SamplingRate = true, 1000001 },
			"distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Default()
			tt.change(cfg)
			require.EqualError(t, cfg.Validate(), tt.want)
		})
	}
}
