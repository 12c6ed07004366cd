package node

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/client/pkg/v3/types"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/dolmen-io/dolmen/internal/config"
	"github.com/dolmen-io/dolmen/internal/discovery"
)

// initial returns the members that this one is to begin with, as the flags say: from a list, from DNS, or from a store
// in which it registers, and then waits until ctx ends for the others to do so.
func (n *newcomer) initial(ctx context.Context) (founders, error) {
	switch d := n.cfg.Discovery; {
	case len(d.Endpoints) > 0:
		return n.register(ctx)
	case d.SRVDomain != "":
		return n.lookUp(ctx)
	}
	return initialMembers(n.cfg)
}

// initialAgain is initial for a member that has a log. Its flags count only if it has not finished its first write.
func (n *newcomer) initialAgain(ctx context.Context, unborn bool) (founders, error) {
	d := n.cfg.Discovery
	discovers := len(d.Endpoints) > 0 || d.SRVDomain != ""
	founds := n.cfg.InitialClusterState == config.ClusterNew && !n.cfg.ForceNewCluster
	if discovers && unborn && founds {
		return n.initial(ctx)
	}
	if len(d.Endpoints) > 0 {
		n.lg.Warn("discovery token is ignored since cluster already initialized; valid logs are found",
			zap.String("wal-dir", walDirectory(n.cfg)))
	}
	told, err := initialMembers(n.cfg)
	if err != nil {
		return founders{}, nil //nolint:nilerr // what they say need not make sense any more
	}
	return told, nil
}

func (n *newcomer) lookUp(ctx context.Context) (founders, error) {
	cluster, err := discovery.FromDNS(ctx, n.resolver, discovery.Records{
		Domain: n.cfg.Discovery.SRVDomain, Suffix: n.cfg.Discovery.SRVServiceName,
		Name: n.cfg.Name, Advertised: n.cfg.AdvertisePeerURLs,
	}, n.lg)
	if err != nil {
		return founders{}, fmt.Errorf("error setting up initial cluster: %w", err)
	}
	n.lg.Info("got bootstrap from DNS for etcd-server", zap.String("cluster", cluster))
	urls, err := types.NewURLsMap(cluster)
	if err != nil {
		return founders{}, fmt.Errorf("read the members in the SRV records of %s, %s: %w", n.cfg.Discovery.SRVDomain, cluster, err)
	}
	return newFounders(n.cfg.Name, urls, n.cfg.InitialClusterToken)
}

func (n *newcomer) register(ctx context.Context) (founders, error) {
	d := n.cfg.Discovery
	if n.cfg.InitialClusterState == config.ClusterExisting {
		return founders{}, errors.New("discovery URL should not be set when joining existing initial cluster; " +
			"give --initial-cluster with its members instead of --discovery-endpoints")
	}
	alone, err := newFounders(n.cfg.Name, types.URLsMap{n.cfg.Name: n.cfg.AdvertisePeerURLs}, d.Token)
	if err != nil {
		return founders{}, err
	}
	n.lg.Info("Bootstrapping cluster using v3 discovery.")
	cluster, err := discovery.Join(ctx, n.lg, discovery.Config{Token: d.Token, Client: service(d)},
		discovery.Member{ID: alone.self.ID, Cluster: alone.String()})
	if err != nil {
		return founders{}, err
	}
	urls, err := types.NewURLsMap(cluster)
	if err != nil {
		return founders{}, fmt.Errorf("read the members that are registered, %s: %w", cluster, err)
	}
	return newFounders(n.cfg.Name, urls, d.Token)
}

// service is how the store is reached in which members register.
func service(d config.Discovery) clientv3.ConfigSpec {
	spec := clientv3.ConfigSpec{
		Endpoints: d.Endpoints, RequestTimeout: d.RequestTimeout, DialTimeout: d.DialTimeout,
		KeepAliveTime: d.KeepAliveTime, KeepAliveTimeout: d.KeepAliveTimeout,
		Secure: &clientv3.SecureConfig{
			Cert: d.CertFile, Key: d.KeyFile, Cacert: d.CAFile,
			InsecureTransport: d.InsecureTransport, InsecureSkipVerify: d.InsecureSkipVerify,
		},
	}
	if d.User != "" {
		spec.Auth = &clientv3.AuthConfig{Username: d.User, Password: d.Password}
	}
	return spec
}
