package telemetry

import (
	"bytes"
	"errors"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/stretchr/testify/require"
)

func TestJournalPriorities(t *testing.T) {
	for level, want := range map[string]journal.Priority{
		"debug": journal.PriDebug, "info": journal.PriInfo, "warn": journal.PriWarning,
		"error": journal.PriErr, "fatal": journal.PriCrit, "panic": journal.PriCrit,
	} {
		var got journal.Priority
		var vars map[string]string
		w := &journalWriter{send: func(_ string, p journal.Priority, v map[string]string) error {
			got, vars = p, v
			return nil
		}}
		line := `{"level":"` + level + `","caller":"node/node.go:1"}` + "\n"
		n, err := w.Write([]byte(line))
		require.NoError(t, err)
		require.Equal(t, len(line), n)
		require.Equal(t, want, got, level)
		require.Equal(t, "node", vars["PACKAGE"])
	}
}

func TestJournalFallback(t *testing.T) {
	var fallback bytes.Buffer
	w := &journalWriter{fallback: &fallback,
		send: func(string, journal.Priority, map[string]string) error { return errors.New("gone") }}
	_, err := w.Write([]byte(`{"level":"info"}`))
	require.NoError(t, err)
	require.Equal(t, `{"level":"info"}`, fallback.String())
	_, err = w.Write([]byte("text"))
	require.ErrorContains(t, err, "line is not JSON")
}
