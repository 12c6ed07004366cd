package certs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Config names the files of one kind of connection and says whom it trusts.
type Config struct {
	// Role is the other side, "client" or "peer": for log lines and as the label of metrics.
	Role string
	// CertFile and KeyFile are what a server shows. As a client it shows ClientCertFile and
	// ClientKeyFile; if they are empty, the same.
	CertFile, KeyFile             string
	ClientCertFile, ClientKeyFile string
	// TrustedCAFile is a bundle of authorities in PEM. If it is given, clients must have a certificate that
	// one of them has signed. ClientCertAuth asks for the same; without a bundle it means the system's
	// authorities.
	TrustedCAFile  string
	ClientCertAuth bool
	// CRLFile is what has been revoked: one list in DER, or several in PEM.
	CRLFile string
	// AllowedCNs or AllowedHostnames, of which only one may be given, are the names one of which the
	// other side's certificate must carry.
	AllowedCNs, AllowedHostnames []string
	// ServerName, if not empty, is what the certificate of a server that this member calls must be for, in the place of
	// the host in its URL.
	ServerName string
	// TrustAnyServer leaves out the verification of servers that this member calls: there is nothing to
	// verify generated certificates by.
	TrustAnyServer bool

	// CipherSuites, MinVersion and MaxVersion are crypto/tls's; 0 is TLS 1.2 and Go's newest.
	CipherSuites           []uint16
	MinVersion, MaxVersion uint16

	Logger *zap.Logger
	// Now is the clock, by which recent changes of files are told from old ones.
	Now func() time.Time
	// Resolver finds names and addresses for the check of addresses; net.DefaultResolver is one.
	Resolver Resolver
}

// Store holds what the files of a Config hold. Its methods may be called at any time from many goroutines.
// It is a prometheus.Collector of its certificates' expiry.
type Store struct {
	cfg   Config
	units []unit
	slots slots
	desc  descriptions

	// turn has room for one element, of who looks at the files: a thousand handshakes after a change read and
	// parse them once or twice, not a thousand times at once.
	turn chan struct{}
	// begun counts the looks. It and latest are changed by who has the turn.
	begun  atomic.Uint64
	latest atomic.Pointer[snapshot]
}

// slots are the places of the units, -1 for what is not configured.
type slots struct{ server, client, trusted, revoked int }

// snapshot is what all files held at one look. It is not changed once it is made.
type snapshot struct {
	generation uint64
	states     []*state
}

var _ prometheus.Collector = (*Store)(nil)

// Open loads the files. All of them must be good.
func Open(cfg Config) (*Store, error) {
	if cfg.Logger == nil || cfg.Now == nil || cfg.Resolver == nil {
		return nil, errors.New("certs: a store needs a logger, a clock and a resolver")
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("TLS for %ss: %w", cfg.Role, err)
	}
	s := &Store{cfg: cfg, turn: make(chan struct{}, 1), slots: slots{client: -1, trusted: -1, revoked: -1}, desc: describe(cfg.Role)}
	add := func(u unit) int {
		s.units = append(s.units, u)
		return len(s.units) - 1
	}
	s.slots.server = add(unit{"certificate", []string{cfg.CertFile, cfg.KeyFile}, parseKeyPair})
	if cfg.ClientCertFile != "" {
		s.slots.client = add(unit{"client certificate", []string{cfg.ClientCertFile, cfg.ClientKeyFile}, parseKeyPair})
	}
	if cfg.TrustedCAFile != "" {
		s.slots.trusted = add(unit{"trusted authorities", []string{cfg.TrustedCAFile}, parseAuthorities})
	}
	if cfg.CRLFile != "" {
		s.slots.revoked = add(unit{"revocation list", []string{cfg.CRLFile}, parseRevocations})
	}
	first := &snapshot{states: make([]*state, len(s.units))}
	for i, u := range s.units {
		first.states[i] = u.look(nil, cfg.Now)
		if failure := first.states[i].failure; failure != "" {
			return nil, fmt.Errorf("TLS for %ss: cannot load the %s: %s", cfg.Role, u, failure)
		}
	}
	s.latest.Store(first)
	return s, nil
}

// validate refuses what contradicts itself, with etcd's texts.
func (c *Config) validate() error {
	if c.CertFile == "" || c.KeyFile == "" {
		return fmt.Errorf("KeyFile and CertFile must both be present[key: %v, cert: %v]", c.KeyFile, c.CertFile)
	}
	if (c.ClientCertFile == "") != (c.ClientKeyFile == "") {
		return fmt.Errorf("ClientKeyFile and ClientCertFile must both be present or both absent: key: %v, cert: %v]",
			c.ClientKeyFile, c.ClientCertFile)
	}
	if len(c.AllowedCNs) > 0 && len(c.AllowedHostnames) > 0 {
		return fmt.Errorf("AllowedCNs and AllowedHostnames are mutually exclusive (cns=%q, hostnames=%q)",
			c.AllowedCNs, c.AllowedHostnames)
	}
	return nil
}

// Generation counts the changes of what is in use. Who keeps a connection, or a configuration from Client,
// compares it with the one from before to know that it should make a new one.
func (s *Store) Generation() uint64 { return s.current().generation }

// current returns what is in use by a look at the files that begins after the call.
func (s *Store) current() *snapshot {
	begun := s.begun.Load()
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	have := s.latest.Load()
	if s.begun.Load() > begun {
		return have // another's look began meanwhile, and has ended
	}
	s.begun.Add(1)
	next := &snapshot{generation: have.generation, states: make([]*state, len(s.units))}
	changed := false
	for i, u := range s.units {
		next.states[i] = u.look(have.states[i], s.cfg.Now)
		changed = changed || next.states[i] != have.states[i]
		if reloaded(have.states[i], next.states[i]) {
			next.generation++
		}
	}
	if !changed {
		return have
	}
	s.latest.Store(next)
	s.tell(have, next)
	return next
}

// tell logs what a look has changed.
func (s *Store) tell(have, next *snapshot) {
	for i, u := range s.units {
		was, is := have.states[i], next.states[i]
		fields := []zap.Field{zap.String("role", s.cfg.Role), zap.String("kind", u.name), zap.Strings("files", u.paths)}
		switch {
		case is.failure != "" && is.failure != was.failure:
			s.cfg.Logger.Warn("cannot reload a TLS file; what it held before stays in use",
				append(fields, zap.String("error", is.failure))...)
		case reloaded(was, is):
			s.cfg.Logger.Info("reloaded a TLS file", fields...)
		case is.failure == "" && was.failure != "":
			s.cfg.Logger.Info("a TLS file is good again and holds what is in use", fields...)
		}
	}
}

// reloaded reports whether is holds another value than was.
func reloaded(was, is *state) bool { return is.good != was.good }

func (s *snapshot) pair(slot int) *tls.Certificate {
	return s.states[slot].value.(*keyPair).tls
}
