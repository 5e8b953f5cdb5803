package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/parleymq/parley/app"
	"github.com/parleymq/parley/broker"
	"github.com/parleymq/parley/chat"
	"github.com/parleymq/parley/identity"
	mosquitto "github.com/parleymq/parley/mosquitto-compat"
)

// likeMosquitto applies mosquitto.conf to o, and prints the verdict on each line. A file
// that asks for more security than Parley offers is an error.
func (c *serveCmd) likeMosquitto(o *app.Options, w io.Writer, logger *slog.Logger) (*mosquitto.Rules, error) {
	if c.OpenTopics {
		return nil, errors.New("--open-topics cannot be combined with --mosquitto-conf, whose ACL files say what is open")
	}
	conf, err := mosquitto.Load(c.MosquittoConf)
	if err != nil {
		return nil, fmt.Errorf("--mosquitto-conf: %w", err)
	}
	rules := mosquitto.Open(conf, logger)
	if err := conf.Report(w); err != nil {
		return nil, err
	}
	if err := conf.Err(); err != nil {
		return nil, fmt.Errorf("--mosquitto-conf: Parley does not start with this configuration:\n%w", err)
	}
	if c.MQTTAddr == "" {
		o.MQTTAddr = app.NoMQTT
	}
	o.OneTopicSpace = true // Mosquitto has no topics of each user's own
	o.TopicAccess = rules.Elsewhere()
	for _, l := range conf.Listeners {
		o.Listeners = append(o.Listeners, listenerOf(l, rules.Gate(l)))
	}
	if conf.MaxPacketSize > 0 {
		o.Limits.MaxPacket = conf.MaxPacketSize
	}
	o.Limits.ReceiveMaximum = conf.MaxInflight
	o.MaxSessionExpiry = conf.SessionExpiry
	return rules, nil
}

// listenerOf converts a listener of the configuration.
func listenerOf(l mosquitto.Listener, gate *mosquitto.Gate) app.Listener {
	out := app.Listener{
		Network: l.Network, Address: l.Address, WebSocket: l.WebSocket, Optional: l.Optional, MaxConnections: l.MaxConnections,
		AllowedOrigins: l.Origins, Topics: gate, NameFromCertificate: l.NameFromCertificate, NameIsClientID: l.NameIsClientID,
		NoEmptyClientID: l.Security.NoEmptyClientID,
		Authenticator: func(accounts *identity.Service) chat.Authenticator {
			return gate.Authenticator(accounts, l.NameFromCertificate)
		},
	}
	if len(out.AllowedOrigins) == 0 {
		out.AllowedOrigins = []string{"*"} // as in Mosquitto
	}
	if t := l.TLS; t != nil {
		out.TLS = &broker.TLSFiles{
			CertFile: t.CertFile, KeyFile: t.KeyFile, ClientCAFile: t.CAFile, ClientCADir: t.CAPath,
			RequireClient: t.RequireClient, MinVersion: t.MinVersion, CipherSuites: t.CipherSuites,
		}
	}
	return out
}

// reloadRules reads the password and ACL files again, and disconnects clients that they
// no longer allow.
func reloadRules(rules *mosquitto.Rules, a *app.App, logger *slog.Logger) {
	if err := rules.Reload(); err != nil {
		logger.Error("SIGHUP: a file has a fault; the previous rules stay in force", "err", err)
		return
	}
	logger.Info("SIGHUP: configuration, password and ACL files were read again", "disconnected", a.Recheck())
}
