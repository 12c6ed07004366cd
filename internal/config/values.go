package config

import (
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
)

// Go's flag package keeps these two texts to itself; operators know them.
var (
	errParse = errors.New("parse error")
	errRange = errors.New("value out of range")
)

// urls is a comma list of URLs, sorted and without repetitions.
type urls struct{ p *[]url.URL }

// Set replaces the list. An empty text keeps what was there, as etcd does: unit files pass
// --listen-metrics-urls="" from an unset variable.
func (v urls) Set(text string) error {
	if text == "" {
		return nil
	}
	parsed, err := types.NewURLs(strings.Split(text, ","))
	if err != nil {
		return err
	}
	*v.p = slices.CompactFunc(parsed, func(a, b url.URL) bool { return a.String() == b.String() })
	return nil
}

func (v urls) String() string {
	if v.p == nil {
		return ""
	}
	return joinURLs(*v.p)
}

func joinURLs(list []url.URL) string { return types.URLs(list).String() }

// list is a comma list of words in the order given.
type list struct{ p *[]string }

func (v list) Set(text string) error {
	*v.p = strings.Split(text, ",")
	return nil
}

func (v list) String() string {
	if v.p == nil {
		return ""
	}
	return strings.Join(*v.p, ",")
}

// set is a comma list of words, sorted and without repetitions.
type set struct{ p *[]string }

func (v set) Set(text string) error {
	words := strings.Split(text, ",")
	slices.Sort(words)
	*v.p = slices.Compact(words)
	return nil
}

func (v set) String() string { return list(v).String() }

// origins is a comma list of URLs, or "*" or nothing for all.
type origins struct{ p *[]string }

func (v origins) Set(text string) error {
	if text == "" || text == "*" {
		*v.p = []string{"*"}
		return nil
	}
	parsed, err := types.NewURLs(strings.Split(text, ","))
	if err != nil {
		return err
	}
	*v.p = slices.Compact(parsed.StringSlice())
	return nil
}

func (v origins) String() string { return list(v).String() }

// hosts is a comma list of host names, or "*" or nothing for all.
type hosts struct{ p *[]string }

func (v hosts) Set(text string) error {
	if text == "" {
		text = "*"
	}
	return set(v).Set(text)
}

func (v hosts) String() string { return list(v).String() }

// oneOf is a word out of a few. etcd's own flags of this kind say no more than "invalid value".
type oneOf struct {
	p       *string
	choices []string
	terse   bool // etcd's text
}

func (v oneOf) Set(text string) error {
	if slices.Contains(v.choices, text) {
		*v.p = text
		return nil
	}
	if v.terse {
		return errors.New("invalid value")
	}
	return fmt.Errorf("must be one of %s", strings.Join(v.choices, ", "))
}

func (v oneOf) String() string {
	if v.p == nil {
		return ""
	}
	return *v.p
}

// millis is a whole number of milliseconds.
type millis struct{ p *time.Duration }

func (v millis) Set(text string) error {
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil {
		if errors.Is(err, strconv.ErrRange) {
			return errRange
		}
		return errParse
	}
	if n > math.MaxInt64/uint64(time.Millisecond) {
		return errRange
	}
	*v.p = time.Duration(n) * time.Millisecond
	return nil
}

func (v millis) String() string {
	if v.p == nil {
		return ""
	}
	return strconv.FormatInt(v.p.Milliseconds(), 10)
}

// uint32Value is a 32-bit count.
type uint32Value struct{ p *uint32 }

func (v uint32Value) Set(text string) error {
	n, err := strconv.ParseUint(text, 0, 32)
	if err != nil {
		return err
	}
	*v.p = uint32(n)
	return nil
}

func (v uint32Value) String() string {
	if v.p == nil {
		return ""
	}
	return strconv.FormatUint(uint64(*v.p), 10)
}

// ignored is a flag of an older etcd that may be given and does nothing.
type ignored struct{}

func (ignored) IsBoolFlag() bool { return true }
func (ignored) Set(string) error { return nil }
func (ignored) String() string   { return "" }

// v2Stages is a comma list of v2 deprecation stages. The answer is checked and thrown away: etcd 3.7
// enforces its default.
type v2Stages struct{}

func (v2Stages) Set(text string) error {
	for stage := range strings.SplitSeq(text, ",") {
		switch stage {
		case "write-only", "write-only-skip-check", "write-only-drop-data", "gone":
		default:
			return fmt.Errorf("invalid value %q", stage)
		}
	}
	return nil
}

func (v2Stages) String() string { return "" }
