package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Usage is what processes have used since they began, and what they occupy.
type Usage struct {
	User, System time.Duration
	RSS          uint64 // bytes; memory that several of the processes share counts for each
}

// CPU is both kinds of time together.
func (u Usage) CPU() time.Duration { return u.User + u.System }

func (u Usage) minus(v Usage) Usage {
	return Usage{User: u.User - v.User, System: u.System - v.System, RSS: u.RSS}
}

// clockTick is the unit of times in /proc/*/stat (USER_HZ), which is the same on every Linux that Go runs on.
const clockTick = 10 * time.Millisecond

// stat is a line of /proc/*/stat.
type stat struct {
	pid, parent   int
	name          string
	own, children Usage // children: of those that have ended and were waited for
}

func readStat(pid int) (s stat, err error) {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, err
	}
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return s, fmt.Errorf("/proc/%d/stat: %q", pid, line)
	}
	s.pid, s.name = pid, string(line[open+1:end])
	fields := strings.Fields(string(line[end+1:])) // from the third on, the state
	if len(fields) < 22 {
		return s, fmt.Errorf("/proc/%d/stat: %q", pid, line)
	}
	number := func(i int) int64 {
		n, _ := strconv.ParseInt(fields[i-3], 10, 64) // proc(5) numbers them from 1
		return n
	}
	s.parent = int(number(4))
	s.own = Usage{User: time.Duration(number(14)) * clockTick, System: time.Duration(number(15)) * clockTick, RSS: uint64(number(24)) * uint64(os.Getpagesize())}
	s.children = Usage{User: time.Duration(number(16)) * clockTick, System: time.Duration(number(17)) * clockTick}
	return s, nil
}

// children are the processes that a process has started, as far as they still run.
func children(pid int) (all []stat) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || tasks == nil { // a kernel without these files: look at everybody
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if n, err := strconv.Atoi(e.Name()); err == nil {
				if s, err := readStat(n); err == nil && s.parent == pid {
					all = append(all, s)
				}
			}
		}
		return all
	}
	for _, task := range tasks {
		text, _ := os.ReadFile(task) // the thread may have ended
		for _, f := range strings.Fields(string(text)) {
			n, _ := strconv.Atoi(f) // it is a number
			if s, err := readStat(n); err == nil {
				all = append(all, s)
			}
		}
	}
	return all
}

// Processes are a server and what it runs on, as far as they are on this machine. A pid of 0 is not known.
type Processes struct {
	Server   int // its PostgreSQL counts apart, if it is a child
	Postgres int // the postmaster; 0: the children of the server that are PostgreSQL
	Redis    int
	Broker   int // another broker, beside which the server is measured
}

// Known reports whether there is anything to read.
func (p Processes) Known() bool { return p != Processes{} }

// ProcessUsage is what each of Processes has used; nil where it is not known.
type ProcessUsage struct {
	Server, Postgres, Redis, Broker *Usage
}

// Read reads /proc. It fails where that is not Linux's, or does not have a process.
func (p Processes) Read() (u ProcessUsage, err error) {
	u, _, err = p.read()
	return u, err
}

// read returns the pids of the PostgreSQL's processes, too.
func (p Processes) read() (u ProcessUsage, postgres []int, err error) {
	single := func(pid int, what string, to **Usage) {
		if pid == 0 || err != nil {
			return
		}
		s, e := readStat(pid)
		if e != nil {
			err = fmt.Errorf("%s: %w", what, e)
			return
		}
		*to = &s.own
	}
	single(p.Server, "the server", &u.Server)
	single(p.Redis, "Redis", &u.Redis)
	single(p.Broker, "the broker", &u.Broker)
	postmaster := p.Postgres
	if postmaster == 0 && p.Server != 0 {
		for _, s := range children(p.Server) {
			if strings.HasPrefix(s.name, "postgres") {
				postmaster = s.pid
			}
		}
	}
	if postmaster == 0 || err != nil {
		return u, nil, err
	}
	s, err := readStat(postmaster)
	if err != nil {
		return u, nil, fmt.Errorf("PostgreSQL: %w", err)
	}
	sum := Usage{User: s.own.User + s.children.User, System: s.own.System + s.children.System, RSS: s.own.RSS}
	postgres = append(postgres, postmaster)
	for _, child := range children(postmaster) {
		sum.User += child.own.User
		sum.System += child.own.System
		sum.RSS += child.own.RSS
		postgres = append(postgres, child.pid)
	}
	u.Postgres = &sum
	return u, postgres, nil
}

// Memory is how many bytes of memory each of Processes occupies; what is shared by several processes of PostgreSQL
// counts once (PSS). 0 is not known. It takes milliseconds of the processes' time.
func (p Processes) Memory() (server, postgres uint64) {
	u, pids, err := p.read()
	if err != nil {
		return 0, 0
	}
	if u.Server != nil {
		server = u.Server.RSS
	}
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return server, 0 // of another user
		}
		if _, after, ok := strings.Cut(string(text), "\nPss:"); ok {
			kib, _ := strconv.ParseUint(strings.Fields(after)[0], 10, 64)
			postgres += kib << 10
		}
	}
	return server, postgres
}

// ownCPU is what this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Machine describes where something was measured.
type Machine struct {
	OS     string `json:"os"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory uint64 `json:"memoryBytes"`
	Load   string `json:"load"` // averages over 1, 5 and 15 minutes when it began; "" if not known
}

// ThisMachine describes the machine that the program runs on; what the system does not say is empty.
func ThisMachine() Machine {
	m := Machine{OS: runtime.GOOS, CPUs: runtime.NumCPU(), CPU: field("/proc/cpuinfo", "model name")}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.OS += " " + strings.TrimSpace(string(release))
	}
	kib, _ := strconv.ParseUint(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	m.Memory = kib << 10
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	}
	return m
}

// field returns what stands behind a name in a file of lines "name: value".
func field(file, name string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
