package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// keyPair is a certificate with its key, and the whole chain of its file for the metrics.
type keyPair struct {
	tls   *tls.Certificate
	chain []*x509.Certificate
}

// authorities is a bundle of certificates to trust.
type authorities struct {
	pool  *x509.CertPool
	certs []*x509.Certificate
}

// revocations are serial numbers, as their big-endian bytes. As in etcd a number counts whoever signed the
// certificate: refusing too much is the safe side.
type revocations map[string]struct{}

var beginBlock = []byte("-----BEGIN ")

// decodePEM returns the blocks of a file. encoding/pem passes over what it cannot read; here that is an
// error, because a file that is being written must not be taken for a shorter one.
func decodePEM(content []byte) ([]*pem.Block, error) {
	var blocks []*pem.Block
	rest := content
	for {
		block, after := pem.Decode(rest)
		if block == nil {
			break
		}
		blocks, rest = append(blocks, block), after
	}
	if begun := bytes.Count(content, beginBlock); begun != len(blocks) {
		return nil, fmt.Errorf("%d of its %d PEM blocks are damaged or incomplete", begun-len(blocks), begun)
	}
	if len(blocks) == 0 {
		return nil, errors.New("it holds no PEM block")
	}
	return blocks, nil
}

func parseKeyPair(contents [][]byte) (any, error) {
	for _, content := range contents {
		if _, err := decodePEM(content); err != nil {
			return nil, err
		}
	}
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, err
	}
	out := &keyPair{tls: &pair}
	for _, der := range pair.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		out.chain = append(out.chain, cert)
	}
	return out, nil
}

func parseAuthorities(contents [][]byte) (any, error) {
	blocks, err := decodePEM(contents[0])
	if err != nil {
		return nil, err
	}
	out := &authorities{pool: x509.NewCertPool()}
	for _, block := range blocks {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out.pool.AddCert(cert)
		out.certs = append(out.certs, cert)
	}
	return out, nil
}

// parseRevocations reads one list in DER, which is all that etcd takes, or any number of them in PEM.
func parseRevocations(contents [][]byte) (any, error) {
	lists := contents
	if bytes.Contains(contents[0], beginBlock) {
		blocks, err := decodePEM(contents[0])
		if err != nil {
			return nil, err
		}
		lists = nil
		for _, block := range blocks {
			lists = append(lists, block.Bytes)
		}
	}
	out := revocations{}
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, err
		}
		for _, entry := range list.RevokedCertificateEntries {
			out[string(entry.SerialNumber.Bytes())] = struct{}{}
		}
	}
	return out, nil
}

// check refuses a chain that contains a revoked certificate, with etcd's text.
func (r revocations) check(chain []*x509.Certificate) error {
	for _, cert := range chain {
		serial := cert.SerialNumber.Bytes()
		if _, found := r[string(serial)]; found {
			return fmt.Errorf("transport: certificate serial %x revoked", serial)
		}
	}
	return nil
}
