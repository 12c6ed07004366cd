package inspect

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Request is what an entry of the log asks for.
type Request struct {
	// Kind is the field of etcd's InternalRaftRequest, as in "put"; "conf_change" or "conf_change_v2"; "empty" for
	// the entry with which a leader begins; "unreadable".
	Kind   string
	fields []field
	// Err says why the request is unreadable.
	Err error
}

// field is a name with a string that is printed as it is, a quoted, a nested list, or a list of such.
type field struct {
	name  string
	value any
}

type (
	quoted string
	plain  string
	hidden int // a size in bytes
	nested []field
	list   []any
)

// visibility says of the texts and bytes in requests which may be shown. What is not listed is not shown, so that
// a field that comes with a later version, or a secret, never is.
type visibility int

const (
	sizeOnly visibility = iota
	shown
	withValues // only if asked for
	secret     // not even its size
)

func visibilityOf(name protoreflect.Name) visibility {
	switch name {
	case "key", "range_end", "name", "role", "roles", "user", "username", "ver", "client_urls", "context":
		return shown
	case "value":
		return withValues
	case "password", "hashedPassword", "simple_token":
		return secret
	}
	return sizeOnly
}

// isID says whether a number is an identity, which etcd's tools print in hexadecimal.
func isID(name protoreflect.Name) bool {
	switch name {
	case "ID", "lease", "memberID", "member_ID", "node_id":
		return true
	}
	return false
}

// decodeRequest reads what an entry asks for. With values it keeps those that keys are set to and compared with.
func decodeRequest(e *raftpb.Entry, values bool) Request {
	var m proto.Message
	kind := ""
	switch e.GetType() {
	case raftpb.EntryConfChange:
		m, kind = &raftpb.ConfChange{}, "conf_change"
	case raftpb.EntryConfChangeV2:
		m, kind = &raftpb.ConfChangeV2{}, "conf_change_v2"
	default:
		if len(e.GetData()) == 0 {
			return Request{Kind: "empty"}
		}
		m = &pb.InternalRaftRequest{}
	}
	if err := proto.Unmarshal(e.GetData(), m); err != nil {
		return Request{Kind: "unreadable", Err: err}
	}
	r := Request{Kind: kind}
	f := formatter{values: values}
	if kind != "" {
		r.fields = f.message(m.ProtoReflect())
		return r
	}
	f.request(&r, m.ProtoReflect())
	if r.Kind == "" {
		return Request{Kind: "unreadable", Err: fmt.Errorf("%d bytes hold no request that this version knows", len(e.GetData()))}
	}
	return r
}

// formatter renders messages by their description, so that every request there is, and every field of it, is told.
type formatter struct{ values bool }

// request renders a request: the fields of the one message it carries, and its header.
func (f formatter) request(r *Request, m protoreflect.Message) {
	m.Range(func(d protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case d.Message() == nil:
			r.fields = append(r.fields, field{"request_id", plain(v.String())})
		case d.Name() == "header":
			header, ok := v.Message().Interface().(*pb.RequestHeader)
			if !ok {
				return true
			}
			r.fields = append(r.fields, field{"request_id", plain(strconv.FormatUint(header.GetID(), 16))})
			if header.GetUsername() != "" {
				r.fields = append(r.fields, field{"by", quoted(header.GetUsername())},
					field{"auth_revision", plain(strconv.FormatUint(header.GetAuthRevision(), 10))})
			}
		default:
			r.Kind = string(d.Name())
			r.fields = append(f.message(v.Message()), r.fields...)
		}
		return true
	})
}

func (f formatter) message(m protoreflect.Message) nested {
	var fields nested
	descriptors := m.Descriptor().Fields()
	for i := range descriptors.Len() {
		d := descriptors.Get(i)
		if !m.Has(d) && !toldAtZero(d) || visibilityOf(d.Name()) == secret {
			continue
		}
		v := m.Get(d)
		name := string(d.Name())
		if !d.IsList() {
			fields = append(fields, field{name, f.value(d, v)})
			continue
		}
		var all list
		for j := range v.List().Len() {
			all = append(all, f.value(d, v.List().Get(j)))
		}
		fields = append(fields, field{name, all})
	}
	return fields
}

// toldAtZero says whether a field means something although it is not set: how a comparison goes, and what a
// permission is for.
func toldAtZero(d protoreflect.FieldDescriptor) bool {
	in := d.Parent().Name()
	return d.Kind() == protoreflect.EnumKind && (in == "Compare" || in == "Permission")
}

func (f formatter) value(d protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch d.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return f.message(v.Message())
	case protoreflect.EnumKind:
		if known := d.Enum().Values().ByNumber(v.Enum()); known != nil {
			return plain(known.Name())
		}
		return plain(strconv.Itoa(int(v.Enum())))
	case protoreflect.StringKind, protoreflect.BytesKind:
		text := v.String()
		if d.Kind() == protoreflect.BytesKind {
			text = string(v.Bytes())
		}
		if see := visibilityOf(d.Name()); see == shown || see == withValues && f.values {
			return quoted(text)
		}
		return hidden(len(text))
	case protoreflect.Int64Kind:
		if isID(d.Name()) {
			return plain(strconv.FormatUint(uint64(v.Int()), 16))
		}
	case protoreflect.Uint64Kind:
		if isID(d.Name()) {
			return plain(strconv.FormatUint(v.Uint(), 16))
		}
	}
	return plain(v.String())
}

// String renders the request on one line.
func (r Request) String() string {
	var b strings.Builder
	b.WriteString(r.Kind)
	if r.Err != nil {
		fmt.Fprintf(&b, " error=%q", r.Err)
	}
	writeFields(&b, r.fields)
	return b.String()
}

func writeFields(b *strings.Builder, fields []field) {
	for _, f := range fields {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(f.name + "=" + text(f.value))
	}
}

func text(value any) string {
	switch v := value.(type) {
	case quoted:
		return strconv.Quote(string(v))
	case hidden:
		return fmt.Sprintf("(%d bytes)", int(v))
	case nested:
		var b strings.Builder
		writeFields(&b, v)
		return "{" + b.String() + "}"
	case list:
		parts := make([]string, 0, len(v))
		for _, part := range v {
			parts = append(parts, text(part))
		}
		return "[" + strings.Join(parts, " ") + "]"
	default:
		return fmt.Sprint(v)
	}
}

// jsonFields renders fields for encoding/json. Numbers are texts, for readers of JSON round them; what is hidden
// shows its size under its name with _bytes; bytes that are not text are quoted as in Go, under their name with
// _quoted.
func jsonFields(fields []field) map[string]any {
	object := make(map[string]any, len(fields))
	for _, f := range fields {
		switch v := f.value.(type) {
		case hidden:
			object[f.name+"_bytes"] = int(v)
		case quoted:
			if utf8.ValidString(string(v)) {
				object[f.name] = string(v)
			} else {
				object[f.name+"_quoted"] = strconv.Quote(string(v))
			}
		default:
			object[f.name] = jsonValue(v)
		}
	}
	return object
}

func jsonValue(value any) any {
	switch v := value.(type) {
	case nested:
		return jsonFields(v)
	case list:
		all := make([]any, 0, len(v))
		for _, part := range v {
			all = append(all, jsonValue(part))
		}
		return all
	case hidden:
		return int(v)
	case quoted:
		return string(v)
	case plain:
		return string(v)
	default:
		return json.RawMessage("null")
	}
}
