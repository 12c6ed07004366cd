// Command store compares the key spaces of Dolmen and of etcd as packages, without a network, a log or a cluster
// around them: internal/mvcc over an engine, and etcd's mvcc over its backend.
//
// The two take turns, and the table shows the medians of the rounds. What is measured of a whole store, loading,
// opening and memory, is measured in a process of its own for each; reads are measured in one process.
//
// Pages and counts are those that a Range request asks for: etcd counts the whole range for each page, as its server
// does. What the answers are made of differs as it does in the servers: ours are encoded messages, etcd's decoded.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"text/tabwriter"
)

// options of a run.
type options struct {
	keys, readKeys int
	valueSize      int
	rounds         int
	engine         string
	dir            string
}

func main() {
	var o options
	var step, name string
	flag.IntVar(&o.keys, "keys", 1_000_000, "keys that are loaded to measure loading, opening and memory")
	flag.IntVar(&o.readKeys, "read-keys", 100_000, "keys that reads are measured among")
	flag.IntVar(&o.valueSize, "value-size", 256, "bytes of a value")
	flag.IntVar(&o.rounds, "rounds", 5, "how often everything is measured; the medians count")
	flag.StringVar(&o.engine, "engine", "pebble", "the engine below our store: pebble or memory")
	flag.StringVar(&o.dir, "dir", "", "where the stores are made and removed again; a temporary directory if empty")
	flag.StringVar(&step, "step", "", "for the program itself: what a process of its own measures")
	flag.StringVar(&name, "store", "", "for the program itself: of which store")
	flag.Parse()
	if err := run(o, step, name); err != nil {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}

func run(o options, step, name string) error {
	if step != "" {
		m, err := measureStep(o, step, name)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(m)
	}
	if o.rounds < 1 {
		return errors.New("at least one round is needed")
	}
	dir, err := os.MkdirTemp(o.dir, "dolmen-bench-store-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	o.dir = dir
	t := newTable()
	for round := range o.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, o.rounds)
		if err := wholeRound(o, t); err != nil {
			return err
		}
	}
	if err := measureReads(o, t); err != nil {
		return err
	}
	fmt.Printf("%d keys of %d bytes with values of %d bytes, ours over %s; reads among %d keys; medians of %d rounds\n\n",
		o.keys, keySize, o.valueSize, o.engine, o.readKeys, o.rounds)
	return t.print(os.Stdout)
}

// wholeRound loads and opens each store once, each in a process of its own.
func wholeRound(o options, t *table) error {
	for _, name := range []string{etcdName, oursName} {
		dir, err := os.MkdirTemp(o.dir, name+"-")
		if err != nil {
			return err
		}
		for _, step := range []string{stepLoad, stepOpen} {
			m, err := inProcess(o, step, name, dir)
			if err != nil {
				return fmt.Errorf("%s %s: %w", step, name, err)
			}
			for _, f := range m {
				t.add(f.Name, f.Unit, name, f.Value)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// inProcess runs a step in a new process and returns its figures.
func inProcess(o options, step, name, dir string) ([]figure, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-step", step, "-store", name, "-dir", dir, "-engine", o.engine,
		"-keys", fmt.Sprint(o.keys), "-value-size", fmt.Sprint(o.valueSize))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var m []figure
	return m, json.Unmarshal(out, &m)
}

// measureReads measures both stores' reads in this process, in turns.
func measureReads(o options, t *table) (err error) {
	stores := map[string]store{}
	defer func() {
		for _, s := range stores {
			err = errors.Join(err, s.close())
		}
	}()
	for _, name := range []string{etcdName, oursName} {
		dir, err := os.MkdirTemp(o.dir, name+"-")
		if err != nil {
			return err
		}
		s, err := open(name, o.engine, dir)
		if err != nil {
			return err
		}
		stores[name] = s
		if err := fill(s, o.readKeys, o.valueSize); err != nil {
			return err
		}
	}
	reads, err := prepareReads(stores, o)
	if err != nil {
		return err
	}
	for range o.rounds {
		for _, r := range reads {
			for _, name := range []string{etcdName, oursName} {
				took, err := timed(func() error { return r.run(stores[name]) })
				if err != nil {
					return fmt.Errorf("%s of %s: %w", r.name, name, err)
				}
				t.add(r.name, unitMicroseconds, name, took)
			}
		}
	}
	return nil
}

func (t *table) print(out *os.File) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\tetcd\tours\tetcd/ours\t")
	for _, r := range t.rows {
		etcd, ours := median(r.values[etcdName]), median(r.values[oursName])
		fmt.Fprintf(w, "%s [%s]\t%.4g\t%.4g\t%.4g\t\n", r.name, r.unit, etcd, ours, etcd/ours)
	}
	return w.Flush()
}
