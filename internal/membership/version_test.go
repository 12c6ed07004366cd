package membership

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClusterVersion(t *testing.T) {
	for text, want := range map[string]string{"3.6": "3.6.0", "3.6.0": "3.6.0", "3.6.9": "3.6.0", "3.6.1-rc.0": "3.6.0"} {
		got, err := ClusterVersion(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "3", "v3.6", "3.6.0.0", "nonsense"} {
		_, err := ClusterVersion(text)
		require.ErrorIs(t, err, ErrVersion, text)
	}
}

func TestNextVersion(t *testing.T) {
	down := func(target string) Downgrade { return Downgrade{Enabled: true, TargetVersion: target} }
	for _, tc := range []struct {
		version   string
		downgrade Downgrade
		servers   []string
		want      string
		err       error
	}{
		{"", Downgrade{}, []string{"3.7.3", "3.6.9"}, "3.6.0", nil},
		{"", Downgrade{}, []string{"3.7.3", ""}, MinVersion, nil},
		{"", Downgrade{}, nil, MinVersion, nil},
		{MinVersion, Downgrade{}, []string{"3.7.3", "3.7.0"}, "3.7.0", nil},
		{"3.6.0", Downgrade{}, []string{"3.7.3", "3.6.1"}, "", nil},
		{"3.6.0", Downgrade{}, []string{"3.7.3", "3.7.1"}, "3.7.0", nil},
		{"3.6.0", Downgrade{}, []string{"3.7.3", "broken"}, "", nil},
		{"3.7.0", Downgrade{}, []string{"3.6.0"}, "", nil}, // only an operator lowers it
		{"3.7.0", Downgrade{}, []string{"4.0.0"}, "", nil},
		{"3.7.0", down("3.6.0"), []string{"3.7.3", "3.7.0"}, "3.6.0", nil},
		{"3.6.0", down("3.6.0"), []string{"3.7.3", "3.6.0"}, "", nil},
		{"3.7.0", down("3.6.0"), []string{"3.7.3", ""}, "", nil},
		{"3.7.0", down("3.6.0"), []string{"3.8.0"}, "", ErrVersion},
		{"3.7.0", down("3.5.0"), []string{"3.7.3"}, "", ErrVersion},
		{"broken", Downgrade{}, []string{"3.7.3"}, "", ErrVersion},
	} {
		v := &View{version: tc.version, downgrade: tc.downgrade}
		got, err := v.NextVersion(tc.servers)
		require.ErrorIs(t, err, tc.err, "%+v", tc)
		require.Equal(t, tc.want, got, "%+v", tc)
	}
}

func TestDowngraded(t *testing.T) {
	v := &View{downgrade: Downgrade{Enabled: true, TargetVersion: "3.6.0"}}
	require.True(t, v.Downgraded([]string{"3.6.1", "3.6.9"}))
	require.False(t, v.Downgraded([]string{"3.6.1", "3.7.0"}))
	require.False(t, v.Downgraded([]string{"3.6.1", ""}))
	require.False(t, (&View{}).Downgraded([]string{"3.6.1"}))
}

func TestServes(t *testing.T) {
	require.True(t, Serves("3.7.3", "3.7.0"))
	require.True(t, Serves("3.7.3", "3.6.0"))
	require.False(t, Serves("3.6.9", "3.7.0"))
	require.False(t, Serves("broken", "3.7.0"))
	require.False(t, Serves("3.7.0", "broken"))
	require.False(t, Downgradable("broken", "3.6.0"))
	require.False(t, Downgradable("3.7.0", "broken"))
}
