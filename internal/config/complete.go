package config

import (
	"fmt"
	"net/url"

	"go.uber.org/zap"
)

// Complete fills in what depends on the machine and on other settings: a data directory named after
// the member, this machine's address where a member that listens on 0.0.0.0 would advertise localhost,
// and an initial cluster of this member alone under its name. host finds this machine's address.
func (c *Config) Complete(host func() (string, error)) Notices {
	var notices Notices
	address, err := host()
	if err == nil && address != "" {
		peer := advertise(&c.AdvertisePeerURLs, defaultPeerURL, c.ListenPeerURLs, address)
		client := advertise(&c.AdvertiseClientURLs, defaultClientURL, c.ListenClientURLs, address)
		if peer || client {
			notices.info("detected default host for advertise", zap.String("host", address))
		}
	}
	if c.Name != defaultName && c.InitialCluster == Default().InitialCluster {
		c.InitialCluster = c.InitialClusterFromName()
	}
	if err != nil {
		notices.info("failed to detect default host", zap.Error(err))
	}
	if c.DataDir == "" {
		c.DataDir = c.Name + ".etcd"
		notices.warn("'data-dir' was empty; using default", zap.String("data-dir", c.DataDir))
	}
	return notices
}

// advertise replaces the default advertised URL by the machine's address if the first listener is
// bound to every address.
func advertise(advertised *[]url.URL, unchanged string, listen []url.URL, address string) bool {
	if len(*advertised) != 1 || (*advertised)[0].String() != unchanged ||
		len(listen) == 0 || listen[0].Hostname() != "0.0.0.0" {
		return false
	}
	*advertised = []url.URL{{Scheme: (*advertised)[0].Scheme, Host: fmt.Sprintf("%s:%s", address, listen[0].Port())}}
	return true
}

// InitialClusterFromName is the initial cluster of this member alone, at its advertised peer URLs.
func (c *Config) InitialClusterFromName() string {
	name := c.Name
	if name == "" {
		name = defaultName
	}
	text := ""
	for i, u := range c.AdvertisePeerURLs {
		if i > 0 {
			text += ","
		}
		text += name + "=" + u.String()
	}
	return text
}
