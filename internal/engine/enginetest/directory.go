package enginetest

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
)

// Directory is a flat directory in memory that knows what a power cut would leave of it: what was
// synced, and any part of what was not. It is for engines that take their file system as an argument.
// The zero value is not usable; call NewDirectory.
type Directory struct {
	mu struct {
		sync.Mutex
		names, synced map[string]*inode
		// changes of names since the last sync of the directory, in order; nil for a name that was removed.
		changes   []map[string]*inode
		ordered   bool
		ops       int
		cut       *cut
		failFrom  int
		failure   error
		dropSyncs bool
	}
}

// inode is a file's bytes, as written and as of its last sync.
type inode struct {
	data, synced []byte
}

// cut is a power cut that is to be recorded before operation at.
type cut struct {
	at     int
	rng    *rand.Rand
	before func()
	image  *Directory
}

// NewDirectory returns an empty directory.
func NewDirectory() *Directory {
	d := &Directory{}
	d.mu.names, d.mu.synced = map[string]*inode{}, map[string]*inode{}
	return d
}

// DropSyncs makes the directory lie: every sync from now on reports success and does nothing.
func (d *Directory) DropSyncs() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.dropSyncs = true
}

// OrderNames makes changes of names survive a power cut in the order in which they were made: none without those
// before it. POSIX does not promise that, and file systems that keep a journal of names do (ext4, XFS, Btrfs).
func (d *Directory) OrderNames() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.ordered = true
}

// FailFrom makes operation n from now, counted from zero, and every one after it return err and do
// nothing. A nil err makes the directory work again.
func (d *Directory) FailFrom(n int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.failFrom, d.mu.failure = d.mu.ops+n, err
}

// Crash returns the directory that a power cut at this moment would leave. Of what was not synced
// it keeps each name and each block with a probability of keep percent, as rng decides.
func (d *Directory) Crash(rng *rand.Rand, keep int) *Directory {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.crash(rng, keep)
}

// CrashAt records what a power cut just before operation op from now, counted from zero, would leave.
// before is called first, within the operation. The function returned gives the image, or nil if the
// operation has not come, and ends the recording.
func (d *Directory) CrashAt(op int, rng *rand.Rand, before func()) func() *Directory {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := &cut{at: d.mu.ops + op, rng: rng, before: before}
	d.mu.cut = c
	return func() *Directory {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mu.cut = nil
		return c.image
	}
}

// crash is Crash with d.mu held.
func (d *Directory) crash(rng *rand.Rand, keep int) *Directory {
	chance := func() bool { return rng.IntN(100) < keep }
	after := NewDirectory()
	after.mu.dropSyncs, after.mu.ordered = d.mu.dropSyncs, d.mu.ordered
	names := d.survivingNames(chance)
	for _, name := range sortedNames(names) {
		data := names[name].survive(chance)
		after.mu.names[name] = &inode{data, slices.Clone(data)}
	}
	after.mu.synced = maps.Clone(after.mu.names)
	return after
}

// survivingNames returns the synced names with some of the changes made since.
func (d *Directory) survivingNames(chance func() bool) map[string]*inode {
	names := maps.Clone(d.mu.synced)
	if d.mu.ordered {
		for _, c := range d.mu.changes {
			if !chance() {
				break
			}
			apply(names, c)
		}
		return names
	}
	for _, name := range sortedNames(d.mu.names, d.mu.synced) {
		if now := d.mu.names[name]; now != d.mu.synced[name] && chance() {
			apply(names, map[string]*inode{name: now})
		}
	}
	return names
}

// change changes names, all of those given at once.
func (d *Directory) change(to map[string]*inode) {
	apply(d.mu.names, to)
	d.mu.changes = append(d.mu.changes, to)
}

func apply(names, change map[string]*inode) {
	for name, f := range change {
		if f != nil {
			names[name] = f
		} else {
			delete(names, name)
		}
	}
}

// sortedNames returns the keys of all maps, so that a seed decides the same on every run.
func sortedNames(ms ...map[string]*inode) []string {
	all := map[string]*inode{}
	for _, m := range ms {
		maps.Copy(all, m)
	}
	return slices.Sorted(maps.Keys(all))
}

// survive returns the bytes that a power cut leaves: the synced ones, and some blocks of the rest. A
// block that is lost before one that is kept reads as zeros.
func (f *inode) survive(chance func() bool) []byte {
	const block = 512
	data := slices.Clone(f.synced)
	for i := 0; i < len(f.data); i += block {
		end := min(i+block, len(f.data))
		if i < len(f.synced) && slices.Equal(f.data[i:end], f.synced[i:min(end, len(f.synced))]) || !chance() {
			continue
		}
		if end > len(data) {
			data = append(data, make([]byte, end-len(data))...)
		}
		copy(data[i:end], f.data[i:end])
	}
	return data
}

// step counts an operation, with d.mu held, and returns the failure it is to have.
func (d *Directory) step(what, name string) error {
	if c := d.mu.cut; c != nil && c.image == nil && d.mu.ops >= c.at {
		c.before()
		c.image = d.crash(c.rng, []int{0, 50, 100}[c.rng.IntN(3)])
	}
	d.mu.ops++
	if d.mu.failure != nil && d.mu.ops > d.mu.failFrom {
		return &fs.PathError{Op: what, Path: name, Err: d.mu.failure}
	}
	return nil
}

func (d *Directory) find(what, name string) (*inode, error) {
	f, ok := d.mu.names[name]
	if !ok {
		return nil, &fs.PathError{Op: what, Path: name, Err: fs.ErrNotExist}
	}
	return f, nil
}

// Create makes an empty file, replacing one of that name.
func (d *Directory) Create(name string) (interface {
	io.Writer
	Sync() error
	Close() error
}, error,
) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("create", name); err != nil {
		return nil, err
	}
	f := &inode{}
	d.change(map[string]*inode{name: f})
	return &file{d, name, f}, nil
}

// Open opens a file for reading.
func (d *Directory) Open(name string) (io.ReadCloser, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("open", name); err != nil {
		return nil, err
	}
	f, err := d.find("open", name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(&reader{rest: slices.Clone(f.data)}), nil
}

// Rename gives a file another name, replacing what had it.
func (d *Directory) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("rename", from); err != nil {
		return err
	}
	f, err := d.find("rename", from)
	if err != nil {
		return err
	}
	d.change(map[string]*inode{from: nil, to: f})
	return nil
}

// Remove removes a name.
func (d *Directory) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("remove", name); err != nil {
		return err
	}
	if _, err := d.find("remove", name); err != nil {
		return err
	}
	d.change(map[string]*inode{name: nil})
	return nil
}

// List returns all names.
func (d *Directory) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("list", "."); err != nil {
		return nil, err
	}
	return sortedNames(d.mu.names), nil
}

// Sync makes the names as they are now survive a power cut.
func (d *Directory) Sync() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step("sync", "."); err != nil {
		return err
	}
	if !d.mu.dropSyncs {
		d.mu.synced, d.mu.changes = maps.Clone(d.mu.names), nil
	}
	return nil
}

// Close does nothing: the directory may be used again.
func (d *Directory) Close() error { return nil }

// Flip inverts one bit of a file, synced and not.
func (d *Directory) Flip(name string, bit int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.find("flip", name)
	if err != nil {
		return err
	}
	if bit/8 >= len(f.data) {
		return fmt.Errorf("%s has %d bytes, no bit %d", name, len(f.data), bit)
	}
	f.data[bit/8] ^= 1 << (bit % 8)
	f.synced = slices.Clone(f.data)
	return nil
}

// file is a file open for writing.
type file struct {
	dir  *Directory
	name string
	*inode
}

func (f *file) Write(p []byte) (int, error) {
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	if err := f.dir.step("write", f.name); err != nil {
		return 0, err
	}
	f.data = append(f.data, p...)
	return len(p), nil
}

func (f *file) Sync() error {
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	if err := f.dir.step("sync", f.name); err != nil {
		return err
	}
	if !f.dir.mu.dropSyncs {
		f.synced = slices.Clone(f.data)
	}
	return nil
}

func (f *file) Close() error {
	f.dir.mu.Lock()
	defer f.dir.mu.Unlock()
	return f.dir.step("close", f.name)
}

type reader struct{ rest []byte }

func (r *reader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
