package broker

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// TLSFiles names the files of a listener's TLS configuration. They are read at the start,
// and again when one of them has changed, without a signal. Open connections keep the
// configuration that they have begun with.
type TLSFiles struct {
	CertFile string // PEM: the server's certificate, and those between it and its authority
	KeyFile  string // PEM: its private key, without a passphrase

	ClientCAFile  string   // PEM: authorities whose certificates clients may show; empty: none but ClientCADir's
	ClientCADir   string   // a folder of such files
	RequireClient bool     // the handshake fails without a certificate of these authorities
	MinVersion    uint16   // tls.VersionTLS12, the default, or tls.VersionTLS13
	CipherSuites  []uint16 // of TLS 1.2, as in tls.Config; empty: Go's choice
}

// Config reads the files and returns a configuration for Listener.TLS. The error names the
// file that is at fault.
func (f TLSFiles) Config(logger *slog.Logger) (*tls.Config, error) {
	logger = cmp.Or(logger, slog.New(slog.DiscardHandler))
	if f.RequireClient && f.ClientCAFile == "" && f.ClientCADir == "" {
		return nil, errors.New("a client certificate is required, and no authority is named that may have signed it")
	}
	if f.MinVersion < tls.VersionTLS12 {
		f.MinVersion = tls.VersionTLS12
	}
	k := &certificates{files: f, logger: logger.With("component", "broker")}
	seen := k.version()
	c, err := k.read()
	if err != nil {
		return nil, err
	}
	k.seen, k.config = seen, c
	outer := c.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.current(), nil }
	return outer, nil
}

// certificates keeps the configuration that a listener's files make.
type certificates struct {
	files  TLSFiles
	logger *slog.Logger

	mu     sync.Mutex
	seen   string      // mu guards: version of the files that were read
	config *tls.Config // mu guards: made of them; never changed
}

// current returns the configuration that the files make now. If they are at fault the one
// before stays in use: a half-written certificate must not refuse connections.
func (k *certificates) current() *tls.Config {
	now := k.version()
	k.mu.Lock()
	defer k.mu.Unlock()
	if now == k.seen {
		return k.config
	}
	k.seen = now // the same fault is logged once
	c, err := k.read()
	if err != nil {
		k.logger.Error("the certificate files have changed and cannot be used; the certificates before stay in use", "err", err)
		return k.config
	}
	k.config = c
	k.logger.Info("certificate files read again", "file", k.files.CertFile)
	return k.config
}

// version returns a text that changes when a file does. It costs a few calls of stat, little
// beside a handshake.
func (k *certificates) version() string {
	var s string
	for _, name := range []string{k.files.CertFile, k.files.KeyFile, k.files.ClientCAFile, k.files.ClientCADir} {
		if name == "" {
			continue
		}
		if fi, err := os.Stat(name); err == nil {
			s += fmt.Sprintf("%s %d %s\n", name, fi.Size(), fi.ModTime().UTC().Format(time.RFC3339Nano))
		} else {
			s += name + " missing\n"
		}
	}
	return s
}

func (k *certificates) read() (*tls.Config, error) {
	f := k.files
	pair, err := tls.LoadX509KeyPair(f.CertFile, f.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("certificate %q with key %q: %w", f.CertFile, f.KeyFile, err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: f.MinVersion, CipherSuites: f.CipherSuites}
	if f.ClientCAFile == "" && f.ClientCADir == "" {
		return c, nil
	}
	c.ClientCAs, c.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if f.RequireClient {
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	var files []string
	if f.ClientCAFile != "" {
		files = append(files, f.ClientCAFile)
	}
	if f.ClientCADir != "" {
		entries, err := os.ReadDir(f.ClientCADir)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		for _, e := range entries {
			if name := filepath.Join(f.ClientCADir, e.Name()); !e.IsDir() {
				files = append(files, name)
			}
		}
	}
	found := false
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
		ok := c.ClientCAs.AppendCertsFromPEM(b)
		found = found || ok
		if !ok && name == f.ClientCAFile {
			return nil, fmt.Errorf("certificate authorities: %q holds no certificate in PEM", name)
		}
	}
	if !found {
		return nil, fmt.Errorf("certificate authorities: no certificate in PEM in %q", f.ClientCADir)
	}
	return c, nil
}
