package compat

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// maxShownBytes is the longest byte string a transcript shows; longer ones appear as length and digest.
const maxShownBytes = 256

// slackSeconds is how much younger than granted a lease may look and still be rendered as full: the time a loaded
// machine may need for a scenario. Leases whose remaining time matters are granted less than this.
const slackSeconds = 300

// renderer turns messages into comparable text.
type renderer struct {
	aliases map[int64]int64 // server-chosen lease id -> the number it is shown as
	// members are the ids of members added here, which depend on the time, and what each is shown as.
	members map[uint64]uint64
	target  *target // whose names of things it uses; nil for none
}

// render returns m in one line, with what legitimately differs between two runs made equal.
func (r *renderer) render(m proto.Message) string {
	m = proto.Clone(m)
	switch m := m.(type) {
	case *pb.LeaseTimeToLiveResponse:
		if m.TTL <= m.GrantedTTL+r.target.extension() && m.GrantedTTL-m.TTL <= slackSeconds && m.TTL > 0 {
			m.TTL = m.GrantedTTL
		}
		sort.Slice(m.Keys, func(i, j int) bool { return string(m.Keys[i]) < string(m.Keys[j]) })
	case *pb.LeaseLeasesResponse:
		if r.target.follows(m.GetHeader().GetMemberId()) { // etcd orders by the time that is left, which only a leader knows
			sort.Slice(m.Leases, func(i, j int) bool { return m.Leases[i].ID < m.Leases[j].ID })
		}
	case *pb.StatusResponse:
		normalizeStatus(m)
	case *pb.AlarmResponse:
		sort.Slice(m.Alarms, func(i, j int) bool { return m.Alarms[i].String() < m.Alarms[j].String() })
	case *pb.AuthenticateResponse:
		m.Token = tokenShape(m.Token)
	case *pb.HashResponse:
		m.Hash = 1 // of a file, which holds random salts
	case *pb.SnapshotResponse:
		m.RemainingBytes, m.Blob = 0, fmt.Appendf(nil, "some bytes: %v", len(m.Blob) > 0)
	case interface{ GetMembers() []*pb.Member }:
		members := m.GetMembers() // ascending by id
		urls := func(i int) string { return r.target.rename(fmt.Sprint(members[i].PeerURLs)) }
		sort.Slice(members, func(i, j int) bool { return urls(i) < urls(j) })
	}
	rewrite(m.ProtoReflect(), r.field)
	text := prototext.MarshalOptions{}.Format(m)
	// prototext puts one or two spaces between fields, chosen per binary.
	return r.target.rename(strings.Join(strings.Fields(text), " "))
}

var (
	simpleToken = regexp.MustCompile(`^[a-zA-Z]{16}\.[0-9]+$`)
	signedToken = regexp.MustCompile(`^([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+$`)
)

// tokenShape returns what a token says that does not change from login to login.
func tokenShape(token string) string {
	if simpleToken.MatchString(token) {
		return "16 letters and an index"
	}
	parts := signedToken.FindStringSubmatch(token)
	if parts == nil {
		return "no known kind of token"
	}
	var claims map[string]any
	header, err1 := base64.RawURLEncoding.DecodeString(parts[1])
	payload, err2 := base64.RawURLEncoding.DecodeString(parts[2])
	if err := errors.Join(err1, err2, json.Unmarshal(payload, &claims)); err != nil {
		return "a broken signed token"
	}
	expiry, _ := claims["exp"].(float64)
	claims["exp"] = expiry > float64(time.Now().Unix())
	return fmt.Sprintf("%s %v", header, claims)
}

// normalizeStatus keeps of sizes and indexes only what holds on every member.
func normalizeStatus(m *pb.StatusResponse) {
	flag := func(ok bool) int64 {
		if ok {
			return 1
		}
		return -1
	}
	m.DbSizeInUse = flag(0 < m.DbSizeInUse && m.DbSizeInUse <= m.DbSize)
	m.DbSize = flag(m.DbSize > 0)
	m.RaftIndex = uint64(flag(m.RaftIndex > 0 && m.RaftAppliedIndex <= m.RaftIndex) + 2)
	m.RaftAppliedIndex = uint64(flag(m.RaftAppliedIndex > 0) + 2)
	for i, e := range m.Errors {
		m.Errors[i] = strings.Join(strings.Fields(e), " ")
	}
}

func (r *renderer) field(fd protoreflect.FieldDescriptor, v protoreflect.Value) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.Int64Kind:
		if alias, ok := r.aliases[v.Int()]; ok && (fd.Name() == "ID" || fd.Name() == "lease") {
			return protoreflect.ValueOfInt64(alias)
		}
	case protoreflect.Uint64Kind:
		if alias, ok := r.members[v.Uint()]; ok {
			return protoreflect.ValueOfUint64(alias)
		}
	case protoreflect.BytesKind:
		if b := v.Bytes(); len(b) > maxShownBytes {
			sum := sha256.Sum256(b)
			return protoreflect.ValueOfBytes(fmt.Appendf(nil, "%d bytes, sha256 %x", len(b), sum[:6]))
		}
	}
	return v
}

// rewrite replaces every set scalar of m, at any depth, with what f returns for it.
func rewrite(m protoreflect.Message, f func(protoreflect.FieldDescriptor, protoreflect.Value) protoreflect.Value) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap():
		case fd.IsList():
			list := v.List()
			for i := range list.Len() {
				if fd.Kind() == protoreflect.MessageKind {
					rewrite(list.Get(i).Message(), f)
				} else {
					list.Set(i, f(fd, list.Get(i)))
				}
			}
		case fd.Kind() == protoreflect.MessageKind:
			rewrite(v.Message(), f)
		default:
			m.Set(fd, f(fd, v))
		}
		return true
	})
}

// renderError returns code and text of an RPC's error as the wire had them, but for the space after "proto:", which
// protobuf makes a plain or a fixed one, chosen per binary.
func renderError(err error) string {
	s := status.Convert(err)
	return fmt.Sprintf("%v: %q", s.Code(), strings.ReplaceAll(s.Message(), "\u00a0", " "))
}
