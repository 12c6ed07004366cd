package compat

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
)

// rpc is one method of a service.
type rpc struct {
	path          string // as on the wire: /etcdserverpb.KV/Range
	input         protoreflect.MessageType
	output        protoreflect.MessageType
	clientStreams bool
	serverStreams bool
}

// name is the method without its package: KV/Range.
func (m rpc) name() string { return m.path[strings.LastIndex(m.path, ".")+1:] }

func (m rpc) unary() bool { return !m.clientStreams && !m.serverStreams }

// etcdServices are the services of etcd, with which everything that must not forget a method begins.
func etcdServices() []grpc.ServiceDesc {
	return []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc,
		pb.Auth_ServiceDesc, v3lockpb.Lock_ServiceDesc, v3electionpb.Election_ServiceDesc,
	}
}

// etcdRPCs are the methods of etcd's services, from the generated descriptors.
func etcdRPCs() []rpc { return slices.Concat(methodsOf(etcdServices())...) }

// healthRPCs are those of gRPC's own health service, which etcd serves too.
func healthRPCs() []rpc {
	return slices.Concat(methodsOf([]grpc.ServiceDesc{healthpb.Health_ServiceDesc})...)
}

func methodsOf(services []grpc.ServiceDesc) [][]rpc {
	out := make([][]rpc, len(services))
	for i, s := range services {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s.ServiceName))
		if err != nil {
			panic(fmt.Sprintf("no descriptor of service %s: %v", s.ServiceName, err))
		}
		methods := found.(protoreflect.ServiceDescriptor).Methods()
		for n := range methods.Len() {
			d := methods.Get(n)
			out[i] = append(out[i], rpc{
				path:  fmt.Sprintf("/%s/%s", s.ServiceName, d.Name()),
				input: messageType(d.Input()), output: messageType(d.Output()),
				clientStreams: d.IsStreamingClient(), serverStreams: d.IsStreamingServer(),
			})
		}
	}
	return out
}

func messageType(d protoreflect.MessageDescriptor) protoreflect.MessageType {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(fmt.Sprintf("no type of message %s: %v", d.FullName(), err))
	}
	return t
}

// unaryRPCs finds the unary methods: each takes a request of its own type.
var unaryRPCs = sync.OnceValue(func() map[protoreflect.FullName]rpc {
	out := map[protoreflect.FullName]rpc{}
	for _, m := range append(etcdRPCs(), healthRPCs()...) {
		if m.unary() {
			out[m.input.Descriptor().FullName()] = m
		}
	}
	return out
})

// rpcOf returns the unary method that takes a request.
func rpcOf(req proto.Message) (m rpc, ok bool) {
	m, ok = unaryRPCs()[req.ProtoReflect().Descriptor().FullName()]
	return m, ok
}

// rpcByPath returns the method with a path.
func rpcByPath(path string) rpc {
	for _, m := range append(etcdRPCs(), healthRPCs()...) {
		if m.path == path {
			return m
		}
	}
	panic("no method " + path)
}
