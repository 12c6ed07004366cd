package concurrency_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dolmen-io/dolmen/concurrency"
)

// TestReadersAndWriters: readers share, and a reader behind a waiting writer waits for it.
func TestReadersAndWriters(t *testing.T) {
	t.Parallel()
	ctx, name := testContext(t), t.Name()
	s := ownSession(t, ttl)
	m := concurrency.NewRWMutex(s, name)
	a, err := m.RLock(ctx)
	require.NoError(t, err)
	b, err := m.TryRLock(ctx)
	require.NoError(t, err)
	_, err = m.TryLock(ctx)
	require.ErrorIs(t, err, concurrency.ErrLocked)

	client := dial(t, endpoint)
	writer, keys := ownSession(t, ttl), make([]<-chan string, 2)
	write := start(func() (*concurrency.Hold, error) { return concurrency.NewRWMutex(writer, name).Lock(ctx) })
	awaitKeys(t, client, name+"/", 3)
	_, err = m.TryRLock(ctx)
	require.ErrorIs(t, err, concurrency.ErrLocked, "a writer waits")
	reads := make([]<-chan result[*concurrency.Hold], 2)
	for i := range reads {
		reader := ownSession(t, ttl)
		keys[i] = watched(reader.Client())
		reads[i] = start(func() (*concurrency.Hold, error) { return concurrency.NewRWMutex(reader, name).RLock(ctx) })
		require.Contains(t, receive(t, keys[i]), name+"/write/")
	}

	require.NoError(t, b.Release(ctx))
	require.Empty(t, write)
	require.NoError(t, a.Release(ctx))
	w := succeeded(t, write)
	require.Greater(t, w.Token(), b.Token())
	require.Empty(t, reads[0])
	require.Empty(t, reads[1])
	require.NoError(t, w.Release(ctx))
	for i := range reads {
		h := succeeded(t, reads[i])
		require.Greater(t, h.Token(), w.Token())
		require.Empty(t, keys[i], "a reader watches the writer before it, once")
		defer h.Release(ctx)
	}
	_, err = m.TryLock(ctx)
	require.ErrorIs(t, err, concurrency.ErrLocked)
}

// TestDeadReader: a reader that dies lets the writer in.
func TestDeadReader(t *testing.T) {
	t.Parallel()
	ctx, name := testContext(t), t.Name()
	reader, writer := ownSession(t, shortTTL), ownSession(t, ttl)
	_, err := concurrency.NewRWMutex(reader, name).RLock(ctx)
	require.NoError(t, err)
	write := start(func() (*concurrency.Hold, error) { return concurrency.NewRWMutex(writer, name).Lock(ctx) })
	awaitKeys(t, writer.Client(), name+"/", 2)
	require.NoError(t, reader.Client().Close())
	require.NoError(t, succeeded(t, write).Release(ctx))
	_, err = concurrency.NewRWMutex(reader, name).RLock(ctx)
	require.ErrorIs(t, err, concurrency.ErrSessionLost)
}
