package config

import (
	"flag"
	"io"
	"net/url"
	"time"
)

// option is one setting: a flag, the environment variables made from its name, and a key of the
// configuration file.
type option struct {
	*flag.Flag
	group string
	// key is the path of the setting in the configuration file, "" if it has none.
	key string
	// form is how the configuration file writes the value.
	form form
	// shown replaces the default in the help text; for defaults that are not a value.
	shown string
	// inert says why setting the option has no effect; "" if it has one.
	inert string
	// hidden options are accepted for old command lines and not documented.
	hidden bool
}

// form is how the configuration file writes a value.
type form int

const (
	formText     form = iota // a string
	formNumber               // an integer
	formBool                 // true or false
	formDuration             // integer nanoseconds
	formList                 // a list of strings
	formURLs                 // a comma list of URLs in a string
)

// table is every setting of cfg in the order of the help text, bound to cfg's fields.
type table struct {
	flags   *flag.FlagSet
	options []*option
	group   string

	// What belongs to the command line and not to the member.
	configFile string
	version    bool
}

// newTable describes every setting, with cfg's present values as defaults.
func newTable(cfg *Config) *table {
	t := emptyTable()
	t.member(cfg)
	t.limits(cfg)
	t.clustering(cfg)
	t.discovery(&cfg.Discovery)
	t.security(cfg)
	t.peerSecurity(&cfg.PeerTLS)
	t.monitoring(cfg)
	t.logging(cfg)
	t.tracing(&cfg.Tracing)
	t.features(cfg)
	t.other(cfg)
	return t
}

func emptyTable() *table {
	t := &table{flags: flag.NewFlagSet("dolmen", flag.ContinueOnError)}
	t.flags.SetOutput(io.Discard)
	t.flags.Usage = func() {}
	return t
}

// find returns the option called name.
func (t *table) find(name string) *option {
	for _, o := range t.options {
		if o.Name == name {
			return o
		}
	}
	return nil
}

func (t *table) record(name string, f form) *option {
	o := &option{Flag: t.flags.Lookup(name), group: t.group, key: name, form: f}
	t.options = append(t.options, o)
	return o
}

func (t *table) value(v flag.Value, name string, f form, usage string) *option {
	t.flags.Var(v, name, usage)
	return t.record(name, f)
}

func (t *table) text(p *string, name, usage string) *option {
	t.flags.StringVar(p, name, *p, usage)
	return t.record(name, formText)
}

func (t *table) bool(p *bool, name, usage string) *option {
	t.flags.BoolVar(p, name, *p, usage)
	return t.record(name, formBool)
}

func (t *table) duration(p *time.Duration, name, usage string) *option {
	t.flags.DurationVar(p, name, *p, usage)
	return t.record(name, formDuration)
}

func (t *table) uint(p *uint, name, usage string) *option {
	t.flags.UintVar(p, name, *p, usage)
	return t.record(name, formNumber)
}

func (t *table) uint64(p *uint64, name, usage string) *option {
	t.flags.Uint64Var(p, name, *p, usage)
	return t.record(name, formNumber)
}

func (t *table) int(p *int, name, usage string) *option {
	t.flags.IntVar(p, name, *p, usage)
	return t.record(name, formNumber)
}

func (t *table) int64(p *int64, name, usage string) *option {
	t.flags.Int64Var(p, name, *p, usage)
	return t.record(name, formNumber)
}

func (t *table) urls(p *[]url.URL, name, usage string) *option {
	return t.value(urls{p}, name, formURLs, usage)
}

// at places the option elsewhere in the configuration file.
func (o *option) at(key string) *option {
	o.key = key
	return o
}

// flagOnly keeps the option out of the configuration file.
func (o *option) flagOnly() *option { return o.at("") }

// show replaces the default in the help text.
func (o *option) show(text string) *option {
	o.shown = text
	return o
}

// noEffect says that the option is accepted and why it changes nothing.
func (o *option) noEffect(why string) *option {
	o.inert = why
	return o
}
