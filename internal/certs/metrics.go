package certs

import (
	"crypto/x509"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// maxSeries is the most certificates of one file in the metrics; those that expire first count.
const maxSeries = 100

type descriptions struct{ expiry, outdated *prometheus.Desc }

func describe(role string) descriptions {
	labels := prometheus.Labels{"role": role}
	return descriptions{
		expiry: prometheus.NewDesc("dolmen_tls_certificate_expiry_seconds",
			"When a certificate in use expires, in seconds since 1970. Of a file the 100 that expire first.",
			[]string{"file", "subject", "serial"}, labels),
		outdated: prometheus.NewDesc("dolmen_tls_file_outdated",
			"1 if the file cannot be loaded as it is now, so that what it held before is in use.",
			[]string{"file"}, labels),
	}
}

// Describe implements prometheus.Collector.
func (s *Store) Describe(out chan<- *prometheus.Desc) {
	out <- s.desc.expiry
	out <- s.desc.outdated
}

// Collect implements prometheus.Collector.
func (s *Store) Collect(out chan<- prometheus.Metric) {
	have := s.current()
	seen := map[[3]string]bool{}
	for i, u := range s.units {
		file := strings.ToValidUTF8(u.paths[0], "?")
		for _, cert := range firstToExpire(have.states[i].value) {
			labels := [3]string{file, strings.ToValidUTF8(cert.Subject.String(), "?"), cert.SerialNumber.Text(16)}
			if seen[labels] {
				continue // one file for two purposes, or a certificate that is in it twice
			}
			seen[labels] = true
			out <- prometheus.MustNewConstMetric(s.desc.expiry, prometheus.GaugeValue, float64(cert.NotAfter.Unix()), labels[:]...)
		}
	}
	s.collectOutdated(have, out)
}

func (s *Store) collectOutdated(have *snapshot, out chan<- prometheus.Metric) {
	files := map[string]float64{}
	for i, u := range s.units {
		for _, path := range u.paths {
			file := strings.ToValidUTF8(path, "?")
			if have.states[i].failure != "" {
				files[file] = 1
			} else if _, known := files[file]; !known {
				files[file] = 0
			}
		}
	}
	for file, outdated := range files {
		out <- prometheus.MustNewConstMetric(s.desc.outdated, prometheus.GaugeValue, outdated, file)
	}
}

func firstToExpire(value any) []*x509.Certificate {
	var all []*x509.Certificate
	switch v := value.(type) {
	case *keyPair:
		all = slices.Clone(v.chain)
	case *authorities:
		all = slices.Clone(v.certs)
	}
	slices.SortStableFunc(all, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	return all[:min(len(all), maxSeries)]
}
