//go:build rocksdb

package rocksdb_test

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/dolmen-io/dolmen/internal/engine/enginetest"
)

// RocksDB's C API has no file system to put in the place of the operating system's. So the tests run in a process
// that has a library of ours loaded before the C library, which tells a server in this file of every call on a file
// below a directory. The server keeps an enginetest.Directory in step with the files: it knows what a power cut
// would leave, and makes calls fail.

//go:embed testdata/shim.c
var shimSource []byte

// Environment of the process that has the library; see testdata/shim.c.
const (
	shimRoot   = "DOLMEN_SHIM_ROOT"
	shimSocket = "DOLMEN_SHIM_SOCKET"
	preload    = "LD_PRELOAD"
)

// files is the server. Tests find it here because TestMain cannot hand them anything.
var files *fileServer

// TestMain builds the library and becomes the same program with it.
func TestMain(m *testing.M) {
	root := os.Getenv(shimRoot)
	if root == "" {
		err := becomeWatched()
		fmt.Fprintln(os.Stderr, "run the tests with the file system that forgets:", err)
		os.Exit(1)
	}
	os.Unsetenv(preload) // not for the processes that tests start
	listener, err := net.Listen("unix", os.Getenv(shimSocket))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	files = &fileServer{root: root}
	files.mu.places = map[string]*place{}
	files.mu.open = map[int32]*openFile{}
	go files.serve(listener)
	status := m.Run()
	os.RemoveAll(filepath.Dir(os.Getenv(shimSocket)))
	os.Exit(status)
}

// becomeWatched returns only if it fails.
func becomeWatched() error {
	dir, err := os.MkdirTemp("", "rocksdb-test-")
	if err != nil {
		return err
	}
	root := filepath.Join(dir, "watched")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	source, library := filepath.Join(dir, "shim.c"), filepath.Join(dir, "shim.so")
	if err := os.WriteFile(source, shimSource, 0o600); err != nil {
		return err
	}
	compile := exec.Command("cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl", "-lpthread")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("compile testdata/shim.c: %w\n%s", err, out)
	}
	libraries := library
	if sanitized {
		// The sanitizer insists on being the first.
		out, err := exec.Command("cc", "-print-file-name=libasan.so").Output()
		if err != nil {
			return fmt.Errorf("find the address sanitizer: %w", err)
		}
		libraries = strings.TrimSpace(string(out)) + " " + library
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(program, os.Args, append(os.Environ(),
		preload+"="+libraries, shimRoot+"="+root+"/", shimSocket+"="+filepath.Join(dir, "socket")))
}

// Calls that the library tells of, as in testdata/shim.c.
const (
	callCreate   = 'c'
	callOpen     = 'o'
	callOpened   = '=' // follows callCreate and callOpen
	callWrite    = 'w'
	callRead     = 'r'
	callSync     = 's'
	callTruncate = 't'
	callAllocate = 'a'
	callClose    = 'x'
	callRename   = 'm'
	callLink     = 'l'
	callRemove   = 'u'
)

// message is a call that is about to be made. name, and to where a call gives a file another name, are those within
// the place.
type message struct {
	call     rune
	file     int32
	offset   uint64
	path     string
	data     []byte
	name, to string
}

// fileServer answers the library.
type fileServer struct {
	root string
	mu   struct {
		sync.Mutex
		places map[string]*place
		open   map[int32]*openFile
		made   int
	}
}

// place is a directory below the root that an engine is open in.
type place struct {
	dir     *enginetest.Directory
	created writer // between callCreate and callOpened
	mu      struct {
		sync.Mutex
		// fault decides which error a call has.
		fault func(call rune, name string) error
		// strange is the first call that the model does not know how to follow.
		strange error
	}
}

type writer interface {
	io.Writer
	Sync() error
	Close() error
}

type openFile struct {
	place   *place
	writer  writer // nil if it is not modelled, or only read
	length  uint64
	isPlace bool
}

func (s *fileServer) serve(listener net.Listener) {
	conn, err := listener.Accept()
	for err == nil {
		var m message
		if m, err = receive(conn); err != nil {
			break
		}
		var answer [4]byte
		binary.NativeEndian.PutUint32(answer[:], uint32(s.answer(m)))
		_, err = conn.Write(answer[:])
	}
	panic(fmt.Sprintf("the server of the library that watches files: %v", err))
}

func receive(r io.Reader) (m message, err error) {
	header := make([]byte, 24)
	if _, err = io.ReadFull(r, header); err != nil {
		return m, err
	}
	m.call, m.file = rune(binary.NativeEndian.Uint32(header)), int32(binary.NativeEndian.Uint32(header[4:]))
	m.offset = binary.NativeEndian.Uint64(header[8:])
	body := make([]byte, binary.NativeEndian.Uint32(header[16:])+binary.NativeEndian.Uint32(header[20:]))
	if _, err = io.ReadFull(r, body); err != nil {
		return m, err
	}
	n := binary.NativeEndian.Uint32(header[16:])
	m.path, m.data = string(body[:n]), body[n:]
	return m, nil
}

// errnoOf is what the library makes of an error of the model.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	default:
		return syscall.EIO
	}
}

func (s *fileServer) answer(m message) syscall.Errno {
	s.mu.Lock()
	p, name := s.find(m.path)
	if m.call == callRename {
		_, m.to = s.find(string(m.data))
	}
	s.mu.Unlock()
	if p == nil {
		return 0 // an engine that was closed already
	}
	m.name = name
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.fault != nil && m.call != callOpened {
		if errno := errnoOf(p.mu.fault(m.call, name)); errno != 0 {
			return errno
		}
	}
	return errnoOf(s.follow(p, m))
}

// find returns the place of a path, nil if there is none, and the name in it.
func (s *fileServer) find(path string) (*place, string) {
	id, name, _ := strings.Cut(strings.TrimPrefix(path, s.root), "/")
	return s.mu.places[id], strings.Trim(name, "/")
}

// modelled says whether what a power cut does to a file matters.
func modelled(name string) bool {
	return name != "LOCK" && !strings.HasPrefix(name, "LOG") && name != ""
}

// follow does with the model what the call is about to do with the files.
func (s *fileServer) follow(p *place, m message) error {
	switch m.call {
	case callCreate:
		p.created = nil
		if !modelled(m.name) {
			return nil
		}
		w, err := p.dir.Create(m.name)
		p.created = w
		return err
	case callOpen, callRead, callAllocate:
		return nil
	case callOpened:
		s.mu.open[m.file] = &openFile{place: p, writer: p.created, isPlace: m.name == ""}
		p.created = nil
		return nil
	case callRename, callRemove, callLink:
		if !modelled(m.name) {
			return nil
		}
		switch m.call {
		case callRename:
			return p.dir.Rename(m.name, m.to)
		case callRemove:
			return p.dir.Remove(m.name)
		}
		return p.cannotFollow(m)
	}
	f := s.mu.open[m.file]
	if f == nil || f.place != p {
		return p.cannotFollow(m)
	}
	switch {
	case m.call == callClose:
		delete(s.mu.open, m.file)
		if f.writer != nil {
			return f.writer.Close()
		}
	case m.call == callSync && f.isPlace:
		return p.dir.Sync()
	case f.writer != nil:
		return f.follow(m)
	}
	return nil
}

// follow is fileServer.follow for a file that is written. RocksDB only appends, and cuts off what it allocated.
func (f *openFile) follow(m message) error {
	switch {
	case m.call == callSync:
		return f.writer.Sync()
	case m.call == callWrite && (m.offset == f.length || m.offset == 1<<64-1):
		f.length += uint64(len(m.data))
		_, err := f.writer.Write(bytes.Clone(m.data))
		return err
	case m.call == callTruncate && m.offset == f.length:
		return nil
	}
	return f.place.cannotFollow(m)
}

func (p *place) cannotFollow(m message) error {
	if p.mu.strange == nil {
		p.mu.strange = fmt.Errorf("the model cannot follow call %c at %d of %s", m.call, m.offset, m.path)
	}
	return syscall.ENOSYS
}
