// Package orders has tests against a broker of their own:
//
//	LOGWEIR=$PWD/target/release/logweir go test -C examples/gotest
package orders

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// address is what Kafka clients take as a seed broker.
var address string

// TestMain starts a broker once for all tests, in memory, on ports of the system's choice. It stops when this process
// ends, however it ends, because its standard input closes then. The program is `logweir` on the path, or what the
// variable LOGWEIR names.
func TestMain(m *testing.M) {
	folder, err := os.MkdirTemp("", "logweir")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := 1
	if stop, err := start(folder); err != nil {
		fmt.Fprintln(os.Stderr, "the broker did not start:", err)
	} else {
		code = m.Run()
		stop()
	}
	os.RemoveAll(folder)
	os.Exit(code)
}

func start(folder string) (stop func(), err error) {
	program, ready := os.Getenv("LOGWEIR"), filepath.Join(folder, "ready.json")
	if program == "" {
		program = "logweir"
	}
	// A new group need not wait three seconds for members that are not to come.
	broker := exec.Command(program, "serve", "--in-memory", "--kafka", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
		"--http", "off", "--log-level", "warn", "--ready-file", ready, "--exit-with-parent",
		"--set", "groups.initial_rebalance_delay_ms=0")
	broker.Stderr = os.Stderr
	input, err := broker.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := broker.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		input.Close()
		_ = broker.Wait()
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		// The file appears whole.
		if line, err := os.ReadFile(ready); err == nil {
			var addresses struct{ Kafka string }
			err = json.Unmarshal(line, &addresses)
			address = addresses.Kafka
			return stop, err
		}
	}
	stop()
	return nil, fmt.Errorf("not ready after 30 s")
}
