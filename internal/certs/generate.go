package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	certName, keyName = "cert.pem", "key.pem"
	// year is etcd's, which knows no leap years.
	year = 365 * 24 * time.Hour
	// serialBits is the size of random serial numbers; RFC 5280 allows 159 bits.
	serialBits = 128
)

// Generate makes a certificate that has signed itself, for the hosts (URL hosts with or without a port), valid
// for some years, and writes it with its key into dir as cert.pem and key.pem. What is there already is used
// again as long as it has not expired.
func Generate(dir string, hosts []string, years uint, now time.Time, lg *zap.Logger) (certFile, keyFile string, err error) {
	if years == 0 {
		// The text is etcd's.
		return "", "", errors.New("selfSignedCertValidity is invalid,it should be greater than 0")
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", fmt.Errorf("generate a certificate: %w", err)
	}
	certFile, keyFile = filepath.Join(dir, certName), filepath.Join(dir, keyName)
	if usable(certFile, keyFile, now) {
		return certFile, keyFile, nil
	}
	expiry := now.Add(time.Duration(years) * year)
	lg.Warn("automatically generate certificates", zap.Time("certificate-validity-bound-not-after", expiry))
	certPEM, keyPEM, err := selfSigned(hosts, now, expiry)
	if err != nil {
		return "", "", fmt.Errorf("generate a certificate: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("generate a certificate: %w", err)
	}
	for _, file := range []struct {
		kind, path string
		content    []byte
	}{{"key", keyFile, keyPEM}, {"cert", certFile, certPEM}} {
		if err := replaceFile(file.path, file.content); err != nil {
			return "", "", fmt.Errorf("generate a certificate: %w", err)
		}
		lg.Info("created "+file.kind+" file", zap.String("path", file.path))
	}
	return certFile, keyFile, nil
}

// usable reports whether a pair from an earlier start is whole and valid.
func usable(certFile, keyFile string, now time.Time) bool {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	return err == nil && pair.Leaf != nil && now.Before(pair.Leaf.NotAfter)
}

func selfSigned(hosts []string, now, expiry time.Time) (certPEM, keyPEM []byte, err error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"etcd"}},
		NotBefore:             now,
		NotAfter:              expiry,
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	addHosts(template, hosts)
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}), nil
}

func addHosts(template *x509.Certificate, hosts []string) {
	for _, hostport := range hosts {
		host, _, err := net.SplitHostPort(hostport)
		if err != nil {
			host = hostport // it has no port
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" && !slices.Contains(template.DNSNames, host) {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
}

// replaceFile writes a file as a whole or not at all.
func replaceFile(path string, content []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(content)
	err = errors.Join(err, temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}
