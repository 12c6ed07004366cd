package sim

import (
	"crypto/rand"
	"io"
	prng "math/rand/v2"
	"sync"
)

// entropy is the lock on the process's source of randomness: raft can be given no other one.
var entropy sync.Mutex

// seededReader is bytes from a seed in the place of the system's.
type seededReader struct{ rng *prng.ChaCha8 }

func (r seededReader) Read(p []byte) (int, error) { return r.rng.Read(p) }

// replaceEntropy makes all randomness of this process come from seed until it is restored.
func replaceEntropy(seed uint64) (restore func()) {
	entropy.Lock()
	before := rand.Reader
	rand.Reader = io.Reader(seededReader{prng.NewChaCha8(seedBytes(seed))})
	return func() {
		rand.Reader = before
		entropy.Unlock()
	}
}

// seedBytes spreads a seed over what ChaCha8 takes.
func seedBytes(seed uint64) (b [32]byte) {
	spread := prng.NewPCG(seed, 0x646f6c6d656e)
	for i := 0; i < len(b); i += 8 {
		v := spread.Uint64()
		for j := range 8 {
			b[i+j] = byte(v >> (8 * j))
		}
	}
	return b
}
