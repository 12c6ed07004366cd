package config

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"go.uber.org/zap"
)

// Parse reads a command line without the program's name, and an environment of "NAME=value" texts.
//
// A setting comes from its flag, else from DOLMEN_NAME or ETCD_NAME (dashes become underscores; an
// empty variable counts as unset). If a configuration file is named, it is read instead of all other
// flags and variables. The result has passed [Config.Validate]; on an error it is what had been read
// so far, so that its Log settings can be used to report the error.
//
// The error is [ErrHelp], [ErrVersion], [*UsageError], [*FileURLError], [*ShadowedError], or else one
// that the program reports as "failed to verify flags" with exit status 1. The notices are to be
// logged in either case.
func Parse(args, environ []string) (*Config, Notices, error) {
	var notices Notices
	cfg := Default()
	t := newTable(cfg)
	if err := t.flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return cfg, nil, ErrHelp
		}
		return cfg, nil, &UsageError{err}
	}
	if t.flags.NArg() > 0 {
		return cfg, nil, fmt.Errorf("%q is not a valid flag", t.flags.Arg(0))
	}
	if t.version {
		return cfg, nil, ErrVersion
	}
	env := environment{read: map[string]string{}}
	env.load(environ)
	path, err := t.filePath(&env)
	if err != nil {
		return cfg, nil, err
	}

	var given map[string]bool
	if path != "" {
		cfg = Default()
		given, err = cfg.readFile(path)
		notices.info("loaded server configuration, other configuration command line flags and environment "+
			"variables will be ignored if provided", zap.String("path", path))
	} else {
		given, err = t.readEnvironment(&env, &notices)
		cfg.settleFlags(given, &notices)
	}
	if cfg.WarningUnaryRequestDuration == 0 {
		cfg.WarningUnaryRequestDuration = defaultUnaryRequestDuration
	}
	noteGiven(given, &notices)
	if err == nil {
		err = cfg.validate(path == "")
	}
	switch {
	case err == nil:
		cfg.warnings(&notices)
	case path != "":
		notices = nil // nothing was loaded
	}
	return cfg, notices, err
}

// filePath is the configuration file that the flag or the environment names.
func (t *table) filePath(env *environment) (string, error) {
	if t.configFile != "" {
		return t.configFile, nil
	}
	_, path, err := env.lookup("config-file")
	return path, err
}

// settleFlags applies the rules that connect one flag to another. The configuration file has no such
// rules.
func (c *Config) settleFlags(given map[string]bool, notices *Notices) {
	if given["listen-client-urls"] && !given["advertise-client-urls"] {
		c.AdvertiseClientURLs = nil
	}
	d := &c.Discovery
	if (d.SRVDomain != "" || d.SRVServiceName != "" || len(d.Endpoints) > 0) && !given["initial-cluster"] {
		c.InitialCluster = ""
	}
	if c.RaftReadTimeout < minRaftTimeout {
		c.RaftReadTimeout = minRaftTimeout
		notices.info(fmt.Sprintf("raft-read-timeout increased to minimum value: %v", minRaftTimeout))
	}
	if c.RaftWriteTimeout < minRaftTimeout {
		c.RaftWriteTimeout = minRaftTimeout
		notices.info(fmt.Sprintf("raft-write-timeout increased to minimum value: %v", minRaftTimeout))
	}
}

// noteGiven tells the operator which of the settings he gave are deprecated or do nothing.
func noteGiven(given map[string]bool, notices *Notices) {
	if given["max-snapshots"] {
		notices.warn("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.")
	}
	if given["v2-deprecation"] {
		notices.warn("--v2-deprecation is deprecated and scheduled for removal in v3.8. " +
			"The default value is enforced, ignoring user input.")
	}
	for _, o := range newTable(Default()).options {
		if o.inert != "" && given[o.Name] {
			notices.info("setting has no effect", zap.String("flag", o.Name), zap.String("reason", o.inert))
		}
	}
}

// The prefixes of environment variables. Both mean the same; etcd's keeps unit files working.
const (
	prefixDolmen = "DOLMEN_"
	prefixEtcd   = "ETCD_"
)

// environment is the variables with one of the two prefixes.
type environment struct {
	read  map[string]string // all of them, by name
	order []string          // their names as given
}

func (e *environment) load(environ []string) {
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, prefixDolmen) && !strings.HasPrefix(name, prefixEtcd) {
			continue
		}
		e.read[name] = value
		e.order = append(e.order, name)
	}
}

// lookup returns the variable that sets a flag, and its value; both are empty if none does.
func (e *environment) lookup(flagName string) (variable, value string, err error) {
	ours, theirs := variables(flagName)
	a, b := e.read[ours], e.read[theirs]
	if a != "" && b != "" && a != b {
		return "", "", fmt.Errorf("environment variables %s=%q and %s=%q set the same flag to different values; unset one",
			ours, a, theirs, b)
	}
	if a != "" {
		return ours, a, nil
	}
	if b != "" {
		return theirs, b, nil
	}
	return "", "", nil
}

// variables are the two names of a flag in the environment.
func variables(flagName string) (ours, theirs string) {
	name := strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
	return prefixDolmen + name, prefixEtcd + name
}

// readEnvironment sets what the command line has left, and returns the names of all flags that were
// set either way.
func (t *table) readEnvironment(env *environment, notices *Notices) (map[string]bool, error) {
	given, shadowed := map[string]bool{}, map[string]bool{}
	t.flags.Visit(func(f *flag.Flag) {
		given[f.Name] = true
		ours, theirs := variables(f.Name)
		shadowed[ours], shadowed[theirs] = true, true
	})
	used := map[string]bool{}
	var failed error
	t.flags.VisitAll(func(f *flag.Flag) {
		// ETCD_VERSION is what packagers' images set; it never means --version.
		if given[f.Name] || f.Name == "version" {
			return
		}
		variable, value, err := env.lookup(f.Name)
		if err != nil || variable != "" {
			ours, theirs := variables(f.Name)
			used[ours], used[theirs] = true, true
		}
		if err == nil && variable != "" {
			if err = t.flags.Set(f.Name, value); err != nil {
				err = fmt.Errorf("invalid value %q for %s: %w", value, variable, err)
			} else {
				given[f.Name] = true
				notices.info("recognized and used environment variable",
					zap.String("variable-name", variable), zap.String("variable-value", shownValue(f.Name, value)))
			}
		}
		if err != nil {
			failed = err
		}
	})
	if err := env.report(used, shadowed, notices); err != nil {
		return given, err
	}
	return given, failed
}

// shownValue keeps a password out of the log.
func shownValue(flagName, value string) string {
	if flagName == "discovery-password" || flagName == "discovery-user" {
		return "***"
	}
	return value
}

// report says which variables were not used, or returns the first that a flag shadows.
func (e *environment) report(used, shadowed map[string]bool, notices *Notices) error {
	for _, name := range e.order {
		value := e.read[name]
		switch {
		case used[name]:
		case shadowed[name]:
			return &ShadowedError{Variable: name}
		case name == prefixEtcd+"VERSION" || name == prefixDolmen+"VERSION":
			if value != "" {
				notices.warn("cannot set special environment variable", zap.String("key", name), zap.String("value", value))
			}
		default:
			notices.warn("unrecognized environment variable", zap.String("environment-variable", name+"="+value))
		}
	}
	return nil
}
