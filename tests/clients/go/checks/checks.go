// Package checks is what the Go programs share: the command line, how a check is told, and deadlines.
package checks

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
)

// Partitions of a topic that a group shares.
const Partitions = 4

// Limit is how long anything may take.
const Limit = 30 * time.Second

var failed bool

// Program is what a client can do.
type Program struct {
	Check   func(address string)
	Produce func(address, topic string, rows []Row)
	Consume func(stop context.Context, address, topic, group string)
}

// Main runs `check ADDRESS`, `produce ADDRESS TOPIC` or `consume ADDRESS TOPIC GROUP`.
func Main(program Program) {
	arguments := append(os.Args[1:], "", "", "", "")
	switch arguments[0] {
	case "check":
		program.Check(arguments[1])
	case "produce":
		program.Produce(arguments[1], arguments[2], inputRows())
	case "consume":
		program.Consume(inputOpen(), arguments[1], arguments[2], arguments[3])
	default:
		fmt.Fprintln(os.Stderr, "check ADDRESS | produce ADDRESS TOPIC | consume ADDRESS TOPIC GROUP")
		os.Exit(2)
	}
	if failed {
		os.Exit(1)
	}
}

// Check runs a check and prints how it went; a panic is why it failed.
func Check(name string, body func()) {
	defer func() {
		if why := recover(); why != nil {
			failed = true
			fmt.Printf("FAIL %s: %s\n", name, strings.ReplaceAll(fmt.Sprint(why), "\n", " "))
			return
		}
		fmt.Println("ok", name)
	}()
	body()
}

// Must gives the value, or panics.
func Must[T any](value T, err error) T {
	OK(err)
	return value
}

// OK panics if there is an error.
func OK(err error) {
	if err != nil {
		panic(err)
	}
}

// Same panics if the two differ.
func Same[T comparable](what string, got, wanted T) {
	if got != wanted {
		panic(fmt.Sprintf("%s: %v, wanted %v", what, got, wanted))
	}
}

// Until waits for a condition; it may do the work that it waits for.
func Until(what string, condition func() bool) {
	for end := time.Now().Add(Limit); !condition(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			panic(fmt.Sprintf("not within %v: %s", Limit, what))
		}
	}
}

// Unique gives a name that no other run has.
func Unique(name string) string { return fmt.Sprintf("%s-%016x", name, rand.Uint64()) }

// Row is a record's key and value.
type Row struct{ Key, Value string }

// Rows makes records of many sizes.
func Rows(count int) (rows []Row) {
	for i := range count {
		rows = append(rows, Row{fmt.Sprintf("key-%d", i%50), fmt.Sprint(i, strings.Repeat("v", i%900))})
	}
	return rows
}

// Seen is what the members of a group got: places (partition and offset), and who owns what.
type Seen struct {
	sync.Mutex
	count  int
	places map[string]bool
	owned  map[string]int
}

// NewSeen has seen nothing.
func NewSeen() *Seen { return &Seen{places: map[string]bool{}, owned: map[string]int{}} }

// Add notes a record.
func (s *Seen) Add(partition int32, offset int64) {
	s.Lock()
	defer s.Unlock()
	s.count++
	s.places[fmt.Sprint(partition, "@", offset)] = true
}

// Own notes how many partitions a member owns.
func (s *Seen) Own(member string, count int) {
	s.Lock()
	defer s.Unlock()
	s.owned[member] = count
}

// Counts gives how many records, and how many different ones, there were.
func (s *Seen) Counts() [2]int {
	s.Lock()
	defer s.Unlock()
	return [2]int{s.count, len(s.places)}
}

// Shared is whether these members own so many partitions each.
func (s *Seen) Shared(each int, members ...string) bool {
	s.Lock()
	defer s.Unlock()
	for _, member := range members {
		if s.owned[member] != each {
			return false
		}
	}
	return true
}

// Output is what a member of a group tells on standard output: what it owns, and each record.
type Output struct {
	sync.Mutex
	owned  map[int32]bool
	writer *bufio.Writer
}

// NewOutput writes to standard output.
func NewOutput() *Output {
	return &Output{owned: map[int32]bool{}, writer: bufio.NewWriter(os.Stdout)}
}

// Own adds partitions to what is owned, or takes them away.
func (o *Output) Own(partitions []int32, add bool) {
	o.Lock()
	defer o.Unlock()
	for _, partition := range partitions {
		delete(o.owned, partition)
		if add {
			o.owned[partition] = true
		}
	}
	var all []string
	for partition := range o.owned {
		all = append(all, fmt.Sprint(partition))
	}
	sort.Strings(all)
	fmt.Fprintf(o.writer, "=\t%s\n", strings.Join(all, ","))
	o.writer.Flush()
}

// Record tells of one record.
func (o *Output) Record(partition int32, offset int64, key, value []byte) {
	o.Lock()
	defer o.Unlock()
	fmt.Fprintf(o.writer, "%d\t%d\t%s\t%s\n", partition, offset, key, value)
}

// Flush hands on what was told; only then may it be committed.
func (o *Output) Flush() {
	o.Lock()
	defer o.Unlock()
	o.writer.Flush()
}

func inputRows() (rows []Row) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), "\t")
		rows = append(rows, Row{key, value})
	}
	OK(lines.Err())
	return rows
}

// inputOpen is done when standard input ends.
func inputOpen() context.Context {
	open, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return open
}
