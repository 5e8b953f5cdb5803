package app

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/parleymq/parley/store"
)

// witnessEvery is how often the witness is written to its file, if it has changed.
const witnessEvery = 2 * time.Second

// witnessFile is where a server with a private PostgreSQL keeps its witness: beside the
// data of PostgreSQL, so that it is not replaced when only these are. "": nowhere.
func (a *App) witnessFile() string {
	if a.o.DatabaseURL != "" {
		return ""
	}
	return filepath.Join(a.o.DataDir, "witness.json")
}

// checkWitness begins a new epoch of the log if the database lacks what the former process
// had stored: an older backup of it was put in its place.
func (a *App) checkWitness(ctx context.Context) error {
	file := a.witnessFile()
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	former := &store.Witness{}
	if err == nil {
		err = json.Unmarshal(text, former)
	}
	if err != nil {
		a.logger.Warn("it is not known what the database must have, and so not whether it was set back", "err", err)
		return nil
	}
	missing, err := a.store.Misses(ctx, former)
	switch {
	case err != nil:
		return err
	case missing:
		return a.store.SetBack(ctx, a.logger)
	}
	a.witness = former
	return nil
}

// keepWitness keeps the witness in its file until ctx ends.
func (a *App) keepWitness(ctx context.Context) error {
	file := a.witnessFile()
	tick := time.NewTicker(witnessEvery)
	defer tick.Stop()
	var written string
	for running := file != ""; running; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			running = false
		}
		text, err := json.Marshal(a.witness)
		if err != nil || string(text) == written {
			continue
		}
		if err = os.WriteFile(file+".new", text, 0o600); err == nil {
			err = os.Rename(file+".new", file)
		}
		if err != nil {
			a.logger.Warn("what the database must have could not be written down", "err", err)
		}
		written = string(text)
	}
	<-ctx.Done()
	return nil
}
