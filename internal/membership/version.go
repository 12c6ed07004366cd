package membership

import (
	"errors"
	"fmt"

	"github.com/coreos/go-semver/semver"
)

// MinVersion is the version of a cluster in which some member's version has never been known.
const MinVersion = "3.0.0"

// ErrVersion says that a text is no version, or a downgrade no step to the next lower minor version.
var ErrVersion = errors.New("membership: invalid version")

// ClusterVersion reads "3.6" or "3.6.1" as the version of a cluster, "3.6.0". Error: ErrVersion.
func ClusterVersion(text string) (string, error) {
	v, err := minor(text)
	if err != nil {
		if v, err = minor(text + ".0"); err != nil {
			return "", err
		}
	}
	return v.String(), nil
}

// minor returns a version without what is below its minor number.
func minor(text string) (semver.Version, error) {
	v, err := semver.NewVersion(text)
	if err != nil {
		return semver.Version{}, fmt.Errorf("%w: %q: %w", ErrVersion, text, err)
	}
	return semver.Version{Major: v.Major, Minor: v.Minor}, nil
}

// below returns the version to which one may be downgraded.
func below(v semver.Version) semver.Version {
	return semver.Version{Major: v.Major, Minor: v.Minor - 1}
}

// Downgradable reports whether a cluster of one version may be downgraded to another: to the minor version
// below. Both are versions of clusters, "3.7.0".
func Downgradable(from, to string) bool {
	f, err := minor(from)
	if err != nil {
		return false
	}
	t, err := minor(to)
	return err == nil && t.Equal(below(f))
}

// Serves reports whether a member with a server version may be in a cluster of a version: it must not be
// older, not counting what is below the minor number.
func Serves(server, cluster string) bool {
	s, err := minor(server)
	if err != nil {
		return false
	}
	c, err := minor(cluster)
	return err == nil && !s.LessThan(c)
}

// NextVersion returns the version that a leader gives the cluster, "" to leave it as it is. Servers are the
// server versions of all members, "" for one that is not known. The version is that of the oldest member,
// or the target of a downgrade. Error: ErrVersion for a downgrade that is no step down from both the
// cluster's version and the oldest member's, which is then not made.
func (v *View) NextVersion(servers []string) (string, error) {
	oldest, known := oldestMinor(servers)
	switch {
	case v.version == "" && known:
		return oldest.String(), nil
	case v.version == "":
		return MinVersion, nil
	case !known:
		return "", nil
	}
	current, err := minor(v.version)
	if err != nil {
		return "", err
	}
	if target := v.downgrade.TargetVersion; v.downgrade.Enabled {
		switch {
		case target == v.version:
			return "", nil
		case !Downgradable(v.version, target):
			return "", fmt.Errorf("%w: the cluster's version %s cannot be downgraded to %s", ErrVersion, v.version, target)
		case !Downgradable(oldest.String(), target):
			return "", fmt.Errorf("%w: a member of version %s cannot be downgraded to %s", ErrVersion, oldest, target)
		}
		return target, nil
	}
	if current.Major == oldest.Major && current.LessThan(oldest) {
		return oldest.String(), nil
	}
	return "", nil
}

// Downgraded reports whether a downgrade is under way and all members run its target version.
func (v *View) Downgraded(servers []string) bool {
	if !v.downgrade.Enabled {
		return false
	}
	for _, text := range servers {
		server, err := minor(text)
		if err != nil || server.String() != v.downgrade.TargetVersion {
			return false
		}
	}
	return true
}

func oldestMinor(servers []string) (oldest semver.Version, known bool) {
	for i, text := range servers {
		v, err := minor(text)
		if err != nil {
			return semver.Version{}, false
		}
		if i == 0 || v.LessThan(oldest) {
			oldest = v
		}
	}
	return oldest, len(servers) > 0
}
